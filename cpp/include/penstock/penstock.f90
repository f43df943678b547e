! penstock.f90: trained normalizing flows for programs in Fortran. A module over the C library, penstock.h, whose rules hold here
! too; Fortran 2008, no copies of arrays, and the same bits as from C and Python. Compile this file with your program and link
! the library: `penstock config --fortran` prints where it is, or find_package(penstock) and target_sources.
!
!     use penstock, only: penstock_flow, penstock_key_from_seed
!     type(penstock_flow) :: flow
!     real(real64), allocatable :: x(:, :), log_p(:)
!     call flow%load('galaxies.safetensors')
!     allocate (x(flow%dim(), 1000), log_p(1000))
!     call flow%sample(penstock_key_from_seed(1), 0_int64, 0_int64, x)
!     call flow%log_prob(x, log_p)
!
! Arrays. A row of the C library is a column here: x(dim, n), a column for each point. real32 and real64, either for either
! flow. The first dimension has to have unit stride; the second may have any, x(:, 1:n:2) or x(2:4, :) for instance, and
! nothing is copied. An array of one rank less is one row: x(dim), with scalars for its results. Other strides and shapes are
! penstock_error_argument. Results and rows of an output may not overlap other arguments.
!
! Context. Absent for a flow without; context(c), one for all points; context(c, n), a column for each.
!
! Errors. As those of ALLOCATE: `stat` becomes penstock_ok, 0, or another status, and `errmsg`, where something went wrong, a
! sentence, cut or padded to its length. Without `stat` an error writes its sentence to standard error and ends the program by
! ERROR STOP.
!
! Objects. A flow or trainer is freed at the end of its scope, as an allocatable is (a main program's live to its end), or by
! free. a = b makes a flow of its own of the same numbers; a trainer is not copied, a is empty then.
!
! Threads. Verbs of one flow may run in any number of threads at once, OpenMP's for instance; each works on the calling thread
! alone until penstock_set_num_threads says otherwise. A trainer takes one call at a time.
!
! flow%load(path), flow%load_bytes(bytes)       reads a model, from a file or integer(int8) :: bytes(:), which MPI can broadcast
! flow%save(path), flow%save_bytes(bytes)       writes it; bytes is allocatable
! flow%dim(), flow%context_dim()                numbers a row, numbers of context a row (0: none); 0 for an empty flow
! flow%dtype(), flow%n_members()                32 or 64, in which the flow computes; members of an ensemble
! flow%column_name(i), flow%context_column_name(i)     i from 1; '' where the file has none
! flow%log_prob(x, log_p, context)              log-density of each point, in nats
! flow%log_prob_and_grad(x, log_p, grad, context, grad_context)
!                                               and its gradients: grad(dim, n); grad_context as context, of a shared one the sum
! flow%sample(key, first_context_row, first_draw, x, context, log_p)
!                                               n draws, a function of the flow, the context and three numbers, integer(int64):
!     key, 64 bits as they are; the number of the row of context; the number of the draw for that row; both count from 0.
!     Without context or with one for all: draws first_draw, first_draw + 1 ... of row first_context_row. With a context a
!     point: draw first_draw of the rows first_context_row, first_context_row + 1 ...: the block of cells i to k, counted from
!     1, gives i - 1 and shares no draw with another block.
! flow%to_latent(x, z, context, log_det)        the map and the logarithm of its determinant; not of an ensemble
! flow%to_data(z, x, context, log_det)          the way back
! trainer%new(flow, beta1, beta2, epsilon, weight_decay, clip_norm, weight_scale)      real64, each optional, see penstock.h
! trainer%step(learning_rate, x, context, weight, loss, norm)      one step of AdamW on n points; loss and norm before it
! trainer%steps(), trainer%flow(flow)           steps taken; a flow of the present parameters
! All of them but the functions end with stat, errmsg, optional; x and what comes before it, log_p of log_prob and of
! log_prob_and_grad, grad, z and bytes are required, all else is optional.
!
! Procedures on real32 are those on real64 with the kind replaced; a test compares them.
module penstock
  use, intrinsic :: iso_c_binding, only: c_associated, c_char, c_double, c_f_pointer, c_int, c_int8_t, c_int32_t, c_int64_t, &
                                         c_intptr_t, c_loc, c_null_char, c_null_ptr, c_ptr, c_size_t
  use, intrinsic :: iso_fortran_env, only: error_unit, real32, real64
  implicit none
  private

  public :: penstock_flow, penstock_trainer
  public :: penstock_key_from_seed, penstock_set_num_threads, penstock_set_local_num_threads, penstock_num_threads
  public :: penstock_trim, penstock_shutdown, penstock_version, penstock_isa, penstock_status_string

  integer, parameter, public :: penstock_ok = 0, penstock_error_argument = 1, penstock_error_memory = 2, &
                                penstock_error_file = 3, penstock_error_format = 4, penstock_error_unsupported = 5, &
                                penstock_error_not_finite = 6, penstock_error_busy = 7, penstock_error_internal = 8

  type :: penstock_flow
    private
    type(c_ptr) :: handle = c_null_ptr
  contains
    procedure :: load => flow_load
    procedure :: load_bytes => flow_load_bytes
    procedure :: save => flow_save
    procedure :: save_bytes => flow_save_bytes
    procedure :: free => flow_free
    procedure :: dim => flow_dim
    procedure :: context_dim => flow_context_dim
    procedure :: dtype => flow_dtype
    procedure :: n_members => flow_n_members
    procedure :: column_name => flow_column_name
    procedure :: context_column_name => flow_context_column_name
    procedure, private :: log_prob_rows_64, log_prob_shared_64, log_prob_row_64, &
                          log_prob_rows_32, log_prob_shared_32, log_prob_row_32
    generic :: log_prob => log_prob_rows_64, log_prob_shared_64, log_prob_row_64, &
               log_prob_rows_32, log_prob_shared_32, log_prob_row_32
    procedure, private :: log_prob_and_grad_rows_64, log_prob_and_grad_shared_64, log_prob_and_grad_row_64, &
                          log_prob_and_grad_rows_32, log_prob_and_grad_shared_32, log_prob_and_grad_row_32
    generic :: log_prob_and_grad => log_prob_and_grad_rows_64, log_prob_and_grad_shared_64, log_prob_and_grad_row_64, &
               log_prob_and_grad_rows_32, log_prob_and_grad_shared_32, log_prob_and_grad_row_32
    procedure, private :: sample_rows_64, sample_shared_64, sample_row_64, &
                          sample_rows_32, sample_shared_32, sample_row_32
    generic :: sample => sample_rows_64, sample_shared_64, sample_row_64, &
               sample_rows_32, sample_shared_32, sample_row_32
    procedure, private :: to_latent_rows_64, to_latent_shared_64, to_latent_row_64, &
                          to_latent_rows_32, to_latent_shared_32, to_latent_row_32
    generic :: to_latent => to_latent_rows_64, to_latent_shared_64, to_latent_row_64, &
               to_latent_rows_32, to_latent_shared_32, to_latent_row_32
    procedure, private :: to_data_rows_64, to_data_shared_64, to_data_row_64, &
                          to_data_rows_32, to_data_shared_32, to_data_row_32
    generic :: to_data => to_data_rows_64, to_data_shared_64, to_data_row_64, &
               to_data_rows_32, to_data_shared_32, to_data_row_32
    procedure, private :: copy => flow_copy
    generic :: assignment(=) => copy
    final :: flow_final
  end type penstock_flow

  type :: penstock_trainer
    private
    type(c_ptr) :: handle = c_null_ptr
    integer :: dim = 0, context_dim = 0
  contains
    procedure :: new => trainer_new
    procedure :: steps => trainer_steps
    procedure :: flow => trainer_flow
    procedure :: free => trainer_free
    procedure, private :: step_rows_64, step_shared_64, &
                          step_rows_32, step_shared_32
    generic :: step => step_rows_64, step_shared_64, &
               step_rows_32, step_shared_32
    procedure, private :: copy => trainer_copy
    generic :: assignment(=) => copy
    final :: trainer_final
  end type penstock_trainer

  type, bind(c) :: trainer_options
    integer(c_size_t) :: size
    real(c_double) :: beta1, beta2, epsilon, weight_decay, clip_norm, weight_scale
  end type trainer_options

  ! An array as the library sees it.
  type :: view_type
    type(c_ptr) :: at = c_null_ptr  ! null: absent
    integer :: bits = 0, rank = 0
    integer(c_int64_t) :: dim = 0, n = 0, stride = 0
    logical :: regular = .true.  ! the numbers of a row lie one behind the other, and rows a number of numbers apart
  end type view_type

  ! Where an array without any number points to: null would say that it is absent.
  real(c_double), target :: nowhere = 0

  interface penstock_key_from_seed
    module procedure key_from_seed_int64, key_from_seed_int32
  end interface penstock_key_from_seed

  ! --- penstock.h: a prototype for functions of the same arguments -----------------------------------------------------------

  abstract interface
    function log_prob_c(flow, n, x, x_stride, context, context_stride, log_p) bind(c) result(result)
      import :: c_int, c_int64_t, c_ptr
      type(c_ptr), value :: flow
      integer(c_int64_t), value :: n
      type(c_ptr), value :: x
      integer(c_int64_t), value :: x_stride
      type(c_ptr), value :: context
      integer(c_int64_t), value :: context_stride
      type(c_ptr), value :: log_p
      integer(c_int) :: result
    end function log_prob_c
    function grad_c(flow, n, x, x_stride, context, context_stride, log_p, grad, grad_stride, grad_context, &
                    grad_context_stride) bind(c) result(result)
      import :: c_int, c_int64_t, c_ptr
      type(c_ptr), value :: flow
      integer(c_int64_t), value :: n
      type(c_ptr), value :: x
      integer(c_int64_t), value :: x_stride
      type(c_ptr), value :: context
      integer(c_int64_t), value :: context_stride
      type(c_ptr), value :: log_p, grad
      integer(c_int64_t), value :: grad_stride
      type(c_ptr), value :: grad_context
      integer(c_int64_t), value :: grad_context_stride
      integer(c_int) :: result
    end function grad_c
    function sample_c(flow, key, first_context_row, first_draw, n, context, context_stride, x, x_stride, &
                      log_p) bind(c) result(result)
      import :: c_int, c_int64_t, c_ptr
      type(c_ptr), value :: flow
      integer(c_int64_t), value :: key, first_context_row, first_draw, n
      type(c_ptr), value :: context
      integer(c_int64_t), value :: context_stride
      type(c_ptr), value :: x
      integer(c_int64_t), value :: x_stride
      type(c_ptr), value :: log_p
      integer(c_int) :: result
    end function sample_c
    function map_c(flow, n, x, x_stride, context, context_stride, y, y_stride, log_det) bind(c) result(result)
      import :: c_int, c_int64_t, c_ptr
      type(c_ptr), value :: flow
      integer(c_int64_t), value :: n
      type(c_ptr), value :: x
      integer(c_int64_t), value :: x_stride
      type(c_ptr), value :: context
      integer(c_int64_t), value :: context_stride
      type(c_ptr), value :: y
      integer(c_int64_t), value :: y_stride
      type(c_ptr), value :: log_det
      integer(c_int) :: result
    end function map_c
    function step_c(trainer, learning_rate, n, x, x_stride, context, context_stride, weight, loss, norm) bind(c) result(result)
      import :: c_double, c_int, c_int64_t, c_ptr
      type(c_ptr), value :: trainer
      real(c_double), value :: learning_rate
      integer(c_int64_t), value :: n
      type(c_ptr), value :: x
      integer(c_int64_t), value :: x_stride
      type(c_ptr), value :: context
      integer(c_int64_t), value :: context_stride
      type(c_ptr), value :: weight, loss, norm
      integer(c_int) :: result
    end function step_c
    pure function count_c(object) bind(c) result(result)
      import :: c_int64_t, c_ptr
      type(c_ptr), value :: object
      integer(c_int64_t) :: result
    end function count_c
    function name_c(flow, i) bind(c) result(result)
      import :: c_int64_t, c_ptr
      type(c_ptr), value :: flow
      integer(c_int64_t), value :: i
      type(c_ptr) :: result
    end function name_c
    function threads_c(n) bind(c) result(result)
      import :: c_int
      integer(c_int), value :: n
      integer(c_int) :: result
    end function threads_c
    function number_c() bind(c) result(result)
      import :: c_int
      integer(c_int) :: result
    end function number_c
    function text_c() bind(c) result(result)
      import :: c_ptr
      type(c_ptr) :: result
    end function text_c
  end interface

  procedure(log_prob_c), bind(c, name='penstock_log_prob_f64') :: c_log_prob_64
  procedure(log_prob_c), bind(c, name='penstock_log_prob_f32') :: c_log_prob_32
  procedure(grad_c), bind(c, name='penstock_log_prob_and_grad_f64') :: c_log_prob_and_grad_64
  procedure(grad_c), bind(c, name='penstock_log_prob_and_grad_f32') :: c_log_prob_and_grad_32
  procedure(sample_c), bind(c, name='penstock_sample_f64') :: c_sample_64
  procedure(sample_c), bind(c, name='penstock_sample_f32') :: c_sample_32
  procedure(map_c), bind(c, name='penstock_to_latent_f64') :: c_to_latent_64
  procedure(map_c), bind(c, name='penstock_to_latent_f32') :: c_to_latent_32
  procedure(map_c), bind(c, name='penstock_to_data_f64') :: c_to_data_64
  procedure(map_c), bind(c, name='penstock_to_data_f32') :: c_to_data_32
  procedure(step_c), bind(c, name='penstock_trainer_step_f64') :: c_trainer_step_64
  procedure(step_c), bind(c, name='penstock_trainer_step_f32') :: c_trainer_step_32
  procedure(count_c), bind(c, name='penstock_dim') :: c_dim
  procedure(count_c), bind(c, name='penstock_context_dim') :: c_context_dim
  procedure(count_c), bind(c, name='penstock_n_members') :: c_n_members
  procedure(name_c), bind(c, name='penstock_column_name') :: c_column_name
  procedure(name_c), bind(c, name='penstock_context_column_name') :: c_context_column_name
  procedure(threads_c), bind(c, name='penstock_set_num_threads') :: c_set_num_threads
  procedure(threads_c), bind(c, name='penstock_set_local_num_threads') :: c_set_local_num_threads
  procedure(number_c), bind(c, name='penstock_num_threads') :: c_num_threads
  procedure(number_c), bind(c, name='penstock_trim') :: c_trim
  procedure(number_c), bind(c, name='penstock_shutdown') :: c_shutdown
  procedure(text_c), bind(c, name='penstock_last_error') :: c_last_error
  procedure(text_c), bind(c, name='penstock_version') :: c_version
  procedure(text_c), bind(c, name='penstock_isa') :: c_isa

  interface
    function c_load(path, flow) bind(c, name='penstock_load') result(result)
      import :: c_char, c_int, c_ptr
      character(kind=c_char), intent(in), dimension(*) :: path
      type(c_ptr), intent(out) :: flow
      integer(c_int) :: result
    end function c_load
    function c_load_bytes(data, size, flow) bind(c, name='penstock_load_bytes') result(result)
      import :: c_int, c_ptr, c_size_t
      type(c_ptr), value :: data
      integer(c_size_t), value :: size
      type(c_ptr), intent(out) :: flow
      integer(c_int) :: result
    end function c_load_bytes
    function c_save(flow, path) bind(c, name='penstock_save') result(result)
      import :: c_char, c_int, c_ptr
      type(c_ptr), value :: flow
      character(kind=c_char), intent(in), dimension(*) :: path
      integer(c_int) :: result
    end function c_save
    function c_save_bytes(flow, data, capacity, size) bind(c, name='penstock_save_bytes') result(result)
      import :: c_int, c_ptr, c_size_t
      type(c_ptr), value :: flow, data
      integer(c_size_t), value :: capacity
      integer(c_size_t), intent(out) :: size
      integer(c_int) :: result
    end function c_save_bytes
    pure function c_dtype(flow) bind(c, name='penstock_dtype') result(result)
      import :: c_int, c_ptr
      type(c_ptr), value :: flow
      integer(c_int) :: result
    end function c_dtype
    function c_trainer_steps(trainer) bind(c, name='penstock_trainer_steps') result(result)
      import :: c_int64_t, c_ptr
      type(c_ptr), value :: trainer
      integer(c_int64_t) :: result
    end function c_trainer_steps
    function c_key_from_seed(seed) bind(c, name='penstock_key_from_seed') result(result)
      import :: c_int64_t
      integer(c_int64_t), value :: seed
      integer(c_int64_t) :: result
    end function c_key_from_seed
    function c_options_init(options, size) bind(c, name='penstock_trainer_options_init') result(result)
      import :: c_int, c_ptr, c_size_t
      type(c_ptr), value :: options
      integer(c_size_t), value :: size
      integer(c_int) :: result
    end function c_options_init
    function c_trainer_new(flow, options, trainer) bind(c, name='penstock_trainer_new') result(result)
      import :: c_int, c_ptr
      type(c_ptr), value :: flow, options
      type(c_ptr), intent(out) :: trainer
      integer(c_int) :: result
    end function c_trainer_new
    function c_trainer_flow(trainer, flow) bind(c, name='penstock_trainer_flow') result(result)
      import :: c_int, c_ptr
      type(c_ptr), value :: trainer
      type(c_ptr), intent(out) :: flow
      integer(c_int) :: result
    end function c_trainer_flow
    function c_status_string(status) bind(c, name='penstock_status_string') result(result)
      import :: c_int, c_ptr
      integer(c_int), value :: status
      type(c_ptr) :: result
    end function c_status_string
    function c_strlen(text) bind(c, name='strlen') result(result)
      import :: c_ptr, c_size_t
      type(c_ptr), value :: text
      integer(c_size_t) :: result
    end function c_strlen
    subroutine c_free(flow) bind(c, name='penstock_free')
      import :: c_ptr
      type(c_ptr), value :: flow
    end subroutine c_free
    subroutine c_trainer_free(trainer) bind(c, name='penstock_trainer_free')
      import :: c_ptr
      type(c_ptr), value :: trainer
    end subroutine c_trainer_free
  end interface

contains

  ! --- flows ----------------------------------------------------------------------------------------------------------------

  subroutine flow_load(self, path, stat, errmsg)
    class(penstock_flow), intent(inout) :: self
    character(*), intent(in) :: path
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    type(c_ptr) :: handle
    integer(c_int) :: status
    status = c_load(trim(path)//c_null_char, handle)
    if (status == penstock_ok) call take(self, handle)
    call finish(status, stat, errmsg)
  end subroutine flow_load

  subroutine flow_load_bytes(self, bytes, stat, errmsg)
    class(penstock_flow), intent(inout) :: self
    integer(c_int8_t), intent(in), contiguous, target :: bytes(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    type(c_ptr) :: data, handle
    integer(c_int) :: status
    data = c_loc(nowhere)
    if (size(bytes) > 0) data = c_loc(bytes(1))
    status = c_load_bytes(data, size(bytes, kind=c_size_t), handle)
    if (status == penstock_ok) call take(self, handle)
    call finish(status, stat, errmsg)
  end subroutine flow_load_bytes

  subroutine take(flow, handle)
    class(penstock_flow), intent(inout) :: flow
    type(c_ptr), intent(in) :: handle
    call flow%free()
    flow%handle = handle
  end subroutine take

  subroutine flow_save(self, path, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    character(*), intent(in) :: path
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call finish(c_save(self%handle, trim(path)//c_null_char), stat, errmsg)
  end subroutine flow_save

  subroutine flow_save_bytes(self, bytes, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    integer(c_int8_t), intent(out), allocatable, target :: bytes(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    integer(c_size_t) :: n, written
    integer(c_int) :: status
    integer :: no_memory
    status = c_save_bytes(self%handle, c_null_ptr, 0_c_size_t, n)
    if (status == penstock_ok) then
      allocate (bytes(n), stat=no_memory)
      if (no_memory /= 0) then
        call fail(penstock_error_memory, 'no memory is left for the bytes of the model', stat, errmsg)
        return
      end if
      status = c_save_bytes(self%handle, c_loc(bytes), n, written)
      if (status /= penstock_ok) deallocate (bytes)
    end if
    call finish(status, stat, errmsg)
  end subroutine flow_save_bytes

  subroutine flow_free(self)
    class(penstock_flow), intent(inout) :: self
    call c_free(self%handle)
    self%handle = c_null_ptr
  end subroutine flow_free

  impure elemental subroutine flow_final(self)
    type(penstock_flow), intent(inout) :: self
    call self%free()
  end subroutine flow_final

  ! Two variables with one handle would free it twice.
  impure elemental subroutine flow_copy(to, from)
    class(penstock_flow), intent(inout) :: to
    class(penstock_flow), intent(in) :: from
    integer(c_int8_t), allocatable :: bytes(:)
    if (c_associated(to%handle, from%handle)) return
    call to%free()
    if (.not. c_associated(from%handle)) return
    call from%save_bytes(bytes)
    call to%load_bytes(bytes)
  end subroutine flow_copy

  pure integer function flow_dim(self) result(dim)
    class(penstock_flow), intent(in) :: self
    dim = int(c_dim(self%handle))
  end function flow_dim

  pure integer function flow_context_dim(self) result(dim)
    class(penstock_flow), intent(in) :: self
    dim = int(c_context_dim(self%handle))
  end function flow_context_dim

  pure integer function flow_dtype(self) result(bits)
    class(penstock_flow), intent(in) :: self
    bits = c_dtype(self%handle)
  end function flow_dtype

  pure integer function flow_n_members(self) result(n)
    class(penstock_flow), intent(in) :: self
    n = int(c_n_members(self%handle))
  end function flow_n_members

  function flow_column_name(self, i) result(name)
    class(penstock_flow), intent(in) :: self
    integer, intent(in) :: i
    character(:), allocatable :: name
    name = text_at(c_column_name(self%handle, int(i, c_int64_t) - 1))
  end function flow_column_name

  function flow_context_column_name(self, i) result(name)
    class(penstock_flow), intent(in) :: self
    integer, intent(in) :: i
    character(:), allocatable :: name
    name = text_at(c_context_column_name(self%handle, int(i, c_int64_t) - 1))
  end function flow_context_column_name

  ! --- verbs, on views --------------------------------------------------------------------------------------------------------

  subroutine log_prob(flow, x, log_p, context, stat, errmsg)
    class(penstock_flow), intent(in) :: flow
    type(view_type), intent(in) :: x, log_p, context
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    character(:), allocatable :: wrong
    integer(c_int) :: status
    call need_rows(x, 'x', flow%dim(), x%n, wrong)
    call need_numbers(log_p, 'log_p', x%n, wrong)
    call need_context(context, 'context', flow%context_dim(), x%n, wrong)
    if (allocated(wrong)) then
      call fail(penstock_error_argument, wrong, stat, errmsg)
      return
    end if
    if (x%bits == 64) then
      status = c_log_prob_64(flow%handle, x%n, x%at, x%stride, context%at, context%stride, log_p%at)
    else
      status = c_log_prob_32(flow%handle, x%n, x%at, x%stride, context%at, context%stride, log_p%at)
    end if
    call finish(status, stat, errmsg)
  end subroutine log_prob

  subroutine log_prob_and_grad(flow, x, log_p, grad, context, grad_context, stat, errmsg)
    class(penstock_flow), intent(in) :: flow
    type(view_type), intent(in) :: x, log_p, grad, context, grad_context
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    character(:), allocatable :: wrong
    integer(c_int) :: status
    call need_rows(x, 'x', flow%dim(), x%n, wrong)
    call need_numbers(log_p, 'log_p', x%n, wrong)
    call need_rows(grad, 'grad', flow%dim(), x%n, wrong)
    call need_context(context, 'context', flow%context_dim(), x%n, wrong)
    call need_context(grad_context, 'grad_context', flow%context_dim(), x%n, wrong)
    if (c_associated(grad_context%at) .and. .not. c_associated(context%at)) &
      call say('grad_context without a context', wrong)
    if (allocated(wrong)) then
      call fail(penstock_error_argument, wrong, stat, errmsg)
      return
    end if
    if (x%bits == 64) then
      status = c_log_prob_and_grad_64(flow%handle, x%n, x%at, x%stride, context%at, context%stride, log_p%at, grad%at, &
                                      grad%stride, grad_context%at, grad_context%stride)
    else
      status = c_log_prob_and_grad_32(flow%handle, x%n, x%at, x%stride, context%at, context%stride, log_p%at, grad%at, &
                                      grad%stride, grad_context%at, grad_context%stride)
    end if
    call finish(status, stat, errmsg)
  end subroutine log_prob_and_grad

  subroutine sample(flow, key, first_context_row, first_draw, x, context, log_p, stat, errmsg)
    class(penstock_flow), intent(in) :: flow
    integer(c_int64_t), intent(in) :: key, first_context_row, first_draw
    type(view_type), intent(in) :: x, context, log_p
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    character(:), allocatable :: wrong
    integer(c_int) :: status
    call need_rows(x, 'x', flow%dim(), x%n, wrong)
    call need_context(context, 'context', flow%context_dim(), x%n, wrong)
    call need_numbers(log_p, 'log_p', x%n, wrong)
    if (allocated(wrong)) then
      call fail(penstock_error_argument, wrong, stat, errmsg)
      return
    end if
    if (x%bits == 64) then
      status = c_sample_64(flow%handle, key, first_context_row, first_draw, x%n, context%at, context%stride, x%at, x%stride, &
                           log_p%at)
    else
      status = c_sample_32(flow%handle, key, first_context_row, first_draw, x%n, context%at, context%stride, x%at, x%stride, &
                           log_p%at)
    end if
    call finish(status, stat, errmsg)
  end subroutine sample

  subroutine to_latent(flow, x, z, context, log_det, stat, errmsg)
    class(penstock_flow), intent(in) :: flow
    type(view_type), intent(in) :: x, z, context, log_det
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    character(:), allocatable :: wrong
    integer(c_int) :: status
    call need_map(flow, x, 'x', z, 'z', context, log_det, wrong)
    if (allocated(wrong)) then
      call fail(penstock_error_argument, wrong, stat, errmsg)
      return
    end if
    if (x%bits == 64) then
      status = c_to_latent_64(flow%handle, x%n, x%at, x%stride, context%at, context%stride, z%at, z%stride, log_det%at)
    else
      status = c_to_latent_32(flow%handle, x%n, x%at, x%stride, context%at, context%stride, z%at, z%stride, log_det%at)
    end if
    call finish(status, stat, errmsg)
  end subroutine to_latent

  subroutine to_data(flow, z, x, context, log_det, stat, errmsg)
    class(penstock_flow), intent(in) :: flow
    type(view_type), intent(in) :: z, x, context, log_det
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    character(:), allocatable :: wrong
    integer(c_int) :: status
    call need_map(flow, z, 'z', x, 'x', context, log_det, wrong)
    if (allocated(wrong)) then
      call fail(penstock_error_argument, wrong, stat, errmsg)
      return
    end if
    if (z%bits == 64) then
      status = c_to_data_64(flow%handle, z%n, z%at, z%stride, context%at, context%stride, x%at, x%stride, log_det%at)
    else
      status = c_to_data_32(flow%handle, z%n, z%at, z%stride, context%at, context%stride, x%at, x%stride, log_det%at)
    end if
    call finish(status, stat, errmsg)
  end subroutine to_data

  subroutine need_map(flow, from, from_name, to, to_name, context, log_det, wrong)
    class(penstock_flow), intent(in) :: flow
    type(view_type), intent(in) :: from, to, context, log_det
    character(*), intent(in) :: from_name, to_name
    character(:), allocatable, intent(inout) :: wrong
    call need_rows(from, from_name, flow%dim(), from%n, wrong)
    call need_rows(to, to_name, flow%dim(), from%n, wrong)
    call need_context(context, 'context', flow%context_dim(), from%n, wrong)
    call need_numbers(log_det, 'log_det', from%n, wrong)
  end subroutine need_map

  ! --- trainers ---------------------------------------------------------------------------------------------------------------

  subroutine trainer_new(self, flow, beta1, beta2, epsilon, weight_decay, clip_norm, weight_scale, stat, errmsg)
    class(penstock_trainer), intent(inout) :: self
    class(penstock_flow), intent(in) :: flow
    real(c_double), intent(in), optional :: beta1, beta2, epsilon, weight_decay, clip_norm, weight_scale
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    type(trainer_options), target :: options
    type(c_ptr) :: handle
    integer(c_int) :: status
    status = c_options_init(c_loc(options), int(storage_size(options)/8, c_size_t))
    if (status == penstock_ok) then
      if (present(beta1)) options%beta1 = beta1
      if (present(beta2)) options%beta2 = beta2
      if (present(epsilon)) options%epsilon = epsilon
      if (present(weight_decay)) options%weight_decay = weight_decay
      if (present(clip_norm)) options%clip_norm = clip_norm
      if (present(weight_scale)) options%weight_scale = weight_scale
      status = c_trainer_new(flow%handle, c_loc(options), handle)
    end if
    if (status == penstock_ok) then
      call self%free()
      self%handle = handle
      self%dim = flow%dim()
      self%context_dim = flow%context_dim()
    end if
    call finish(status, stat, errmsg)
  end subroutine trainer_new

  subroutine trainer_step(trainer, learning_rate, x, context, weight, loss, norm, stat, errmsg)
    class(penstock_trainer), intent(in) :: trainer
    real(c_double), intent(in) :: learning_rate
    type(view_type), intent(in) :: x, context, weight
    real(c_double), intent(out), optional :: loss, norm
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    character(:), allocatable :: wrong
    real(c_double), target :: loss_there, norm_there
    integer(c_int) :: status
    if (trainer%dim == 0) call say('the trainer is empty: call new first', wrong)
    call need_rows(x, 'x', trainer%dim, x%n, wrong)
    call need_context(context, 'context', trainer%context_dim, x%n, wrong)
    call need_numbers(weight, 'weight', x%n, wrong)
    if (allocated(wrong)) then
      call fail(penstock_error_argument, wrong, stat, errmsg)
      return
    end if
    if (x%bits == 64) then
      status = c_trainer_step_64(trainer%handle, learning_rate, x%n, x%at, x%stride, context%at, context%stride, weight%at, &
                                 c_loc(loss_there), c_loc(norm_there))
    else
      status = c_trainer_step_32(trainer%handle, learning_rate, x%n, x%at, x%stride, context%at, context%stride, weight%at, &
                                 c_loc(loss_there), c_loc(norm_there))
    end if
    if (status == penstock_ok .and. present(loss)) loss = loss_there
    if (status == penstock_ok .and. present(norm)) norm = norm_there
    call finish(status, stat, errmsg)
  end subroutine trainer_step

  function trainer_steps(self) result(steps)
    class(penstock_trainer), intent(in) :: self
    integer(c_int64_t) :: steps
    steps = c_trainer_steps(self%handle)
  end function trainer_steps

  subroutine trainer_flow(self, flow, stat, errmsg)
    class(penstock_trainer), intent(in) :: self
    class(penstock_flow), intent(inout) :: flow
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    type(c_ptr) :: handle
    integer(c_int) :: status
    status = c_trainer_flow(self%handle, handle)
    if (status == penstock_ok) call take(flow, handle)
    call finish(status, stat, errmsg)
  end subroutine trainer_flow

  subroutine trainer_free(self)
    class(penstock_trainer), intent(inout) :: self
    call c_trainer_free(self%handle)
    self%handle = c_null_ptr
    self%dim = 0
  end subroutine trainer_free

  impure elemental subroutine trainer_final(self)
    type(penstock_trainer), intent(inout) :: self
    call self%free()
  end subroutine trainer_final

  impure elemental subroutine trainer_copy(to, from)
    class(penstock_trainer), intent(inout) :: to
    class(penstock_trainer), intent(in) :: from
    if (.not. c_associated(to%handle, from%handle)) call to%free()
  end subroutine trainer_copy

  ! --- the library ------------------------------------------------------------------------------------------------------------

  function key_from_seed_int64(seed) result(key)
    integer(c_int64_t), intent(in) :: seed
    integer(c_int64_t) :: key
    key = c_key_from_seed(seed)
  end function key_from_seed_int64

  function key_from_seed_int32(seed) result(key)
    integer(c_int32_t), intent(in) :: seed
    integer(c_int64_t) :: key
    key = c_key_from_seed(int(seed, c_int64_t))
  end function key_from_seed_int32

  subroutine penstock_set_num_threads(n, stat, errmsg)
    integer, intent(in) :: n
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call finish(c_set_num_threads(int(n, c_int)), stat, errmsg)
  end subroutine penstock_set_num_threads

  subroutine penstock_set_local_num_threads(n, stat, errmsg)
    integer, intent(in) :: n
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call finish(c_set_local_num_threads(int(n, c_int)), stat, errmsg)
  end subroutine penstock_set_local_num_threads

  integer function penstock_num_threads() result(n)
    n = c_num_threads()
  end function penstock_num_threads

  subroutine penstock_trim(stat, errmsg)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call finish(c_trim(), stat, errmsg)
  end subroutine penstock_trim

  subroutine penstock_shutdown(stat, errmsg)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call finish(c_shutdown(), stat, errmsg)
  end subroutine penstock_shutdown

  function penstock_version() result(text)
    character(:), allocatable :: text
    text = text_at(c_version())
  end function penstock_version

  ! '' if there is none for this processor
  function penstock_isa() result(text)
    character(:), allocatable :: text
    text = text_at(c_isa())
  end function penstock_isa

  function penstock_status_string(status) result(text)
    integer, intent(in) :: status
    character(:), allocatable :: text
    text = text_at(c_status_string(int(status, c_int)))
  end function penstock_status_string

  ! --- errors -----------------------------------------------------------------------------------------------------------------

  subroutine finish(status, stat, errmsg)
    integer(c_int), intent(in) :: status
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    if (status == penstock_ok) then
      if (present(stat)) stat = penstock_ok
    else
      call fail(int(status), text_at(c_last_error()), stat, errmsg)
    end if
  end subroutine finish

  subroutine fail(status, sentence, stat, errmsg)
    integer, intent(in) :: status
    character(*), intent(in) :: sentence
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    if (present(errmsg)) errmsg = sentence
    if (present(stat)) then
      stat = status
    else
      write (error_unit, '(a)') 'penstock: '//sentence
      flush (error_unit)
      error stop 1
    end if
  end subroutine fail

  ! Keeps the first sentence.
  subroutine say(sentence, wrong)
    character(*), intent(in) :: sentence
    character(:), allocatable, intent(inout) :: wrong
    if (.not. allocated(wrong)) wrong = sentence
  end subroutine say

  function text_at(at) result(text)
    type(c_ptr), intent(in) :: at
    character(:), allocatable :: text
    character(kind=c_char), pointer :: characters(:)
    integer :: i
    if (.not. c_associated(at)) then
      text = ''
      return
    end if
    call c_f_pointer(at, characters, [c_strlen(at)])
    allocate (character(size(characters)) :: text)
    do i = 1, size(characters)
      text(i:i) = characters(i)
    end do
  end function text_at

  ! --- shapes and strides -----------------------------------------------------------------------------------------------------

  subroutine need_rows(rows, name, dim, n, wrong)
    type(view_type), intent(in) :: rows
    character(*), intent(in) :: name
    integer, intent(in) :: dim
    integer(c_int64_t), intent(in) :: n
    character(:), allocatable, intent(inout) :: wrong
    if (rows%dim == dim .and. rows%n == n .and. rows%regular) return
    if (dim == 0) then
      call say('the flow is empty: load one first', wrong)
    else if (rows%dim /= dim .or. rows%n /= n) then
      call say(name//' must have shape '//shape_of(int(dim, c_int64_t), n, rows%rank)//', got '// &
               shape_of(rows%dim, rows%n, rows%rank), wrong)
    else
      call say(name//' must have unit stride in its first dimension, and its columns a whole number of numbers apart', wrong)
    end if
  end subroutine need_rows

  subroutine need_numbers(numbers, name, n, wrong)
    type(view_type), intent(in) :: numbers
    character(*), intent(in) :: name
    integer(c_int64_t), intent(in) :: n
    character(:), allocatable, intent(inout) :: wrong
    if (.not. c_associated(numbers%at)) return
    if (numbers%dim /= n) then
      call say(name//' must have '//decimal(n)//' elements, one for each column, got '//decimal(numbers%dim), wrong)
    else if (.not. numbers%regular) then
      call say(name//' must have unit stride', wrong)
    end if
  end subroutine need_numbers

  subroutine need_context(context, name, dim, n, wrong)
    type(view_type), intent(in) :: context
    character(*), intent(in) :: name
    integer, intent(in) :: dim
    integer(c_int64_t), intent(in) :: n
    character(:), allocatable, intent(inout) :: wrong
    if (.not. c_associated(context%at)) return
    if (dim == 0) then
      call say('the flow takes no context', wrong)
    else if (context%rank == 1) then
      call need_rows(context, name, dim, 1_c_int64_t, wrong)
    else
      call need_rows(context, name, dim, n, wrong)
    end if
  end subroutine need_context

  function shape_of(dim, n, rank) result(text)
    integer(c_int64_t), intent(in) :: dim, n
    integer, intent(in) :: rank
    character(:), allocatable :: text
    if (rank == 1) then
      text = '('//decimal(dim)//')'
    else
      text = '('//decimal(dim)//', '//decimal(n)//')'
    end if
  end function shape_of

  function decimal(i) result(text)
    integer(c_int64_t), intent(in) :: i
    character(:), allocatable :: text
    character(20) :: digits
    write (digits, '(i0)') i
    text = trim(digits)
  end function decimal

  ! --- real64 -----------------------------------------------------------------------------------------------------------------

  function rows_64(x) result(view)
    real(real64), intent(in), target, optional :: x(:, :)
    type(view_type) :: view
    integer(c_intptr_t) :: bytes, here, distance
    if (.not. present(x)) return
    view%bits = 64
    view%rank = 2
    view%dim = size(x, 1, kind=c_int64_t)
    view%n = size(x, 2, kind=c_int64_t)
    view%stride = view%dim
    view%at = c_loc(nowhere)
    if (size(x) == 0) return
    view%at = c_loc(x(1, 1))
    bytes = storage_size(x)/8
    here = transfer(view%at, here)
    if (view%dim > 1) view%regular = transfer(c_loc(x(2, 1)), here) - here == bytes
    if (view%n > 1) then
      distance = transfer(c_loc(x(1, 2)), here) - here
      view%stride = distance/bytes
      view%regular = view%regular .and. view%stride*bytes == distance
    end if
  end function rows_64

  function row_64(x) result(view)
    real(real64), intent(in), target, optional :: x(:)
    type(view_type) :: view
    integer(c_intptr_t) :: here
    if (.not. present(x)) return
    view%bits = 64
    view%rank = 1
    view%dim = size(x, kind=c_int64_t)
    view%n = 1
    view%at = c_loc(nowhere)
    if (view%dim == 0) return
    view%at = c_loc(x(1))
    here = transfer(view%at, here)
    if (view%dim > 1) view%regular = transfer(c_loc(x(2)), here) - here == storage_size(x)/8
  end function row_64

  function number_64(x) result(view)
    real(real64), intent(in), target, optional :: x
    type(view_type) :: view
    if (.not. present(x)) return
    view%bits = 64
    view%dim = 1
    view%n = 1
    view%at = c_loc(x)
  end function number_64

  subroutine log_prob_rows_64(self, x, log_p, context, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real64), intent(in), target :: x(:, :)
    real(real64), intent(out), target :: log_p(:)
    real(real64), intent(in), target, optional :: context(:, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call log_prob(self, rows_64(x), row_64(log_p), rows_64(context), stat, errmsg)
  end subroutine log_prob_rows_64

  subroutine log_prob_and_grad_rows_64(self, x, log_p, grad, context, grad_context, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real64), intent(in), target :: x(:, :)
    real(real64), intent(out), target :: log_p(:), grad(:, :)
    real(real64), intent(in), target, optional :: context(:, :)
    real(real64), intent(out), target, optional :: grad_context(:, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call log_prob_and_grad(self, rows_64(x), row_64(log_p), rows_64(grad), rows_64(context), rows_64(grad_context), stat, errmsg)
  end subroutine log_prob_and_grad_rows_64

  subroutine sample_rows_64(self, key, first_context_row, first_draw, x, context, log_p, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    integer(c_int64_t), intent(in) :: key, first_context_row, first_draw
    real(real64), intent(out), target :: x(:, :)
    real(real64), intent(in), target, optional :: context(:, :)
    real(real64), intent(out), target, optional :: log_p(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call sample(self, key, first_context_row, first_draw, rows_64(x), rows_64(context), row_64(log_p), stat, errmsg)
  end subroutine sample_rows_64

  subroutine to_latent_rows_64(self, x, z, context, log_det, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real64), intent(in), target :: x(:, :)
    real(real64), intent(out), target :: z(:, :)
    real(real64), intent(in), target, optional :: context(:, :)
    real(real64), intent(out), target, optional :: log_det(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call to_latent(self, rows_64(x), rows_64(z), rows_64(context), row_64(log_det), stat, errmsg)
  end subroutine to_latent_rows_64

  subroutine to_data_rows_64(self, z, x, context, log_det, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real64), intent(in), target :: z(:, :)
    real(real64), intent(out), target :: x(:, :)
    real(real64), intent(in), target, optional :: context(:, :)
    real(real64), intent(out), target, optional :: log_det(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call to_data(self, rows_64(z), rows_64(x), rows_64(context), row_64(log_det), stat, errmsg)
  end subroutine to_data_rows_64

  subroutine step_rows_64(self, learning_rate, x, context, weight, loss, norm, stat, errmsg)
    class(penstock_trainer), intent(in) :: self
    real(c_double), intent(in) :: learning_rate
    real(real64), intent(in), target :: x(:, :)
    real(real64), intent(in), target, optional :: context(:, :), weight(:)
    real(c_double), intent(out), optional :: loss, norm
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call trainer_step(self, learning_rate, rows_64(x), rows_64(context), row_64(weight), loss, norm, stat, errmsg)
  end subroutine step_rows_64

  subroutine log_prob_shared_64(self, x, log_p, context, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real64), intent(in), target :: x(:, :)
    real(real64), intent(out), target :: log_p(:)
    real(real64), intent(in), target :: context(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call log_prob(self, rows_64(x), row_64(log_p), row_64(context), stat, errmsg)
  end subroutine log_prob_shared_64

  subroutine log_prob_and_grad_shared_64(self, x, log_p, grad, context, grad_context, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real64), intent(in), target :: x(:, :)
    real(real64), intent(out), target :: log_p(:), grad(:, :)
    real(real64), intent(in), target :: context(:)
    real(real64), intent(out), target, optional :: grad_context(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call log_prob_and_grad(self, rows_64(x), row_64(log_p), rows_64(grad), row_64(context), row_64(grad_context), stat, errmsg)
  end subroutine log_prob_and_grad_shared_64

  subroutine sample_shared_64(self, key, first_context_row, first_draw, x, context, log_p, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    integer(c_int64_t), intent(in) :: key, first_context_row, first_draw
    real(real64), intent(out), target :: x(:, :)
    real(real64), intent(in), target :: context(:)
    real(real64), intent(out), target, optional :: log_p(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call sample(self, key, first_context_row, first_draw, rows_64(x), row_64(context), row_64(log_p), stat, errmsg)
  end subroutine sample_shared_64

  subroutine to_latent_shared_64(self, x, z, context, log_det, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real64), intent(in), target :: x(:, :)
    real(real64), intent(out), target :: z(:, :)
    real(real64), intent(in), target :: context(:)
    real(real64), intent(out), target, optional :: log_det(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call to_latent(self, rows_64(x), rows_64(z), row_64(context), row_64(log_det), stat, errmsg)
  end subroutine to_latent_shared_64

  subroutine to_data_shared_64(self, z, x, context, log_det, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real64), intent(in), target :: z(:, :)
    real(real64), intent(out), target :: x(:, :)
    real(real64), intent(in), target :: context(:)
    real(real64), intent(out), target, optional :: log_det(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call to_data(self, rows_64(z), rows_64(x), row_64(context), row_64(log_det), stat, errmsg)
  end subroutine to_data_shared_64

  subroutine step_shared_64(self, learning_rate, x, context, weight, loss, norm, stat, errmsg)
    class(penstock_trainer), intent(in) :: self
    real(c_double), intent(in) :: learning_rate
    real(real64), intent(in), target :: x(:, :), context(:)
    real(real64), intent(in), target, optional :: weight(:)
    real(c_double), intent(out), optional :: loss, norm
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call trainer_step(self, learning_rate, rows_64(x), row_64(context), row_64(weight), loss, norm, stat, errmsg)
  end subroutine step_shared_64

  subroutine log_prob_row_64(self, x, log_p, context, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real64), intent(in), target :: x(:)
    real(real64), intent(out), target :: log_p
    real(real64), intent(in), target, optional :: context(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call log_prob(self, row_64(x), number_64(log_p), row_64(context), stat, errmsg)
  end subroutine log_prob_row_64

  subroutine log_prob_and_grad_row_64(self, x, log_p, grad, context, grad_context, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real64), intent(in), target :: x(:)
    real(real64), intent(out), target :: log_p, grad(:)
    real(real64), intent(in), target, optional :: context(:)
    real(real64), intent(out), target, optional :: grad_context(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call log_prob_and_grad(self, row_64(x), number_64(log_p), row_64(grad), row_64(context), row_64(grad_context), stat, errmsg)
  end subroutine log_prob_and_grad_row_64

  subroutine sample_row_64(self, key, first_context_row, first_draw, x, context, log_p, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    integer(c_int64_t), intent(in) :: key, first_context_row, first_draw
    real(real64), intent(out), target :: x(:)
    real(real64), intent(in), target, optional :: context(:)
    real(real64), intent(out), target, optional :: log_p
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call sample(self, key, first_context_row, first_draw, row_64(x), row_64(context), number_64(log_p), stat, errmsg)
  end subroutine sample_row_64

  subroutine to_latent_row_64(self, x, z, context, log_det, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real64), intent(in), target :: x(:)
    real(real64), intent(out), target :: z(:)
    real(real64), intent(in), target, optional :: context(:)
    real(real64), intent(out), target, optional :: log_det
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call to_latent(self, row_64(x), row_64(z), row_64(context), number_64(log_det), stat, errmsg)
  end subroutine to_latent_row_64

  subroutine to_data_row_64(self, z, x, context, log_det, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real64), intent(in), target :: z(:)
    real(real64), intent(out), target :: x(:)
    real(real64), intent(in), target, optional :: context(:)
    real(real64), intent(out), target, optional :: log_det
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call to_data(self, row_64(z), row_64(x), row_64(context), number_64(log_det), stat, errmsg)
  end subroutine to_data_row_64

  ! --- real32 -----------------------------------------------------------------------------------------------------------------

  function rows_32(x) result(view)
    real(real32), intent(in), target, optional :: x(:, :)
    type(view_type) :: view
    integer(c_intptr_t) :: bytes, here, distance
    if (.not. present(x)) return
    view%bits = 32
    view%rank = 2
    view%dim = size(x, 1, kind=c_int64_t)
    view%n = size(x, 2, kind=c_int64_t)
    view%stride = view%dim
    view%at = c_loc(nowhere)
    if (size(x) == 0) return
    view%at = c_loc(x(1, 1))
    bytes = storage_size(x)/8
    here = transfer(view%at, here)
    if (view%dim > 1) view%regular = transfer(c_loc(x(2, 1)), here) - here == bytes
    if (view%n > 1) then
      distance = transfer(c_loc(x(1, 2)), here) - here
      view%stride = distance/bytes
      view%regular = view%regular .and. view%stride*bytes == distance
    end if
  end function rows_32

  function row_32(x) result(view)
    real(real32), intent(in), target, optional :: x(:)
    type(view_type) :: view
    integer(c_intptr_t) :: here
    if (.not. present(x)) return
    view%bits = 32
    view%rank = 1
    view%dim = size(x, kind=c_int64_t)
    view%n = 1
    view%at = c_loc(nowhere)
    if (view%dim == 0) return
    view%at = c_loc(x(1))
    here = transfer(view%at, here)
    if (view%dim > 1) view%regular = transfer(c_loc(x(2)), here) - here == storage_size(x)/8
  end function row_32

  function number_32(x) result(view)
    real(real32), intent(in), target, optional :: x
    type(view_type) :: view
    if (.not. present(x)) return
    view%bits = 32
    view%dim = 1
    view%n = 1
    view%at = c_loc(x)
  end function number_32

  subroutine log_prob_rows_32(self, x, log_p, context, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real32), intent(in), target :: x(:, :)
    real(real32), intent(out), target :: log_p(:)
    real(real32), intent(in), target, optional :: context(:, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call log_prob(self, rows_32(x), row_32(log_p), rows_32(context), stat, errmsg)
  end subroutine log_prob_rows_32

  subroutine log_prob_and_grad_rows_32(self, x, log_p, grad, context, grad_context, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real32), intent(in), target :: x(:, :)
    real(real32), intent(out), target :: log_p(:), grad(:, :)
    real(real32), intent(in), target, optional :: context(:, :)
    real(real32), intent(out), target, optional :: grad_context(:, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call log_prob_and_grad(self, rows_32(x), row_32(log_p), rows_32(grad), rows_32(context), rows_32(grad_context), stat, errmsg)
  end subroutine log_prob_and_grad_rows_32

  subroutine sample_rows_32(self, key, first_context_row, first_draw, x, context, log_p, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    integer(c_int64_t), intent(in) :: key, first_context_row, first_draw
    real(real32), intent(out), target :: x(:, :)
    real(real32), intent(in), target, optional :: context(:, :)
    real(real32), intent(out), target, optional :: log_p(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call sample(self, key, first_context_row, first_draw, rows_32(x), rows_32(context), row_32(log_p), stat, errmsg)
  end subroutine sample_rows_32

  subroutine to_latent_rows_32(self, x, z, context, log_det, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real32), intent(in), target :: x(:, :)
    real(real32), intent(out), target :: z(:, :)
    real(real32), intent(in), target, optional :: context(:, :)
    real(real32), intent(out), target, optional :: log_det(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call to_latent(self, rows_32(x), rows_32(z), rows_32(context), row_32(log_det), stat, errmsg)
  end subroutine to_latent_rows_32

  subroutine to_data_rows_32(self, z, x, context, log_det, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real32), intent(in), target :: z(:, :)
    real(real32), intent(out), target :: x(:, :)
    real(real32), intent(in), target, optional :: context(:, :)
    real(real32), intent(out), target, optional :: log_det(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call to_data(self, rows_32(z), rows_32(x), rows_32(context), row_32(log_det), stat, errmsg)
  end subroutine to_data_rows_32

  subroutine step_rows_32(self, learning_rate, x, context, weight, loss, norm, stat, errmsg)
    class(penstock_trainer), intent(in) :: self
    real(c_double), intent(in) :: learning_rate
    real(real32), intent(in), target :: x(:, :)
    real(real32), intent(in), target, optional :: context(:, :), weight(:)
    real(c_double), intent(out), optional :: loss, norm
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call trainer_step(self, learning_rate, rows_32(x), rows_32(context), row_32(weight), loss, norm, stat, errmsg)
  end subroutine step_rows_32

  subroutine log_prob_shared_32(self, x, log_p, context, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real32), intent(in), target :: x(:, :)
    real(real32), intent(out), target :: log_p(:)
    real(real32), intent(in), target :: context(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call log_prob(self, rows_32(x), row_32(log_p), row_32(context), stat, errmsg)
  end subroutine log_prob_shared_32

  subroutine log_prob_and_grad_shared_32(self, x, log_p, grad, context, grad_context, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real32), intent(in), target :: x(:, :)
    real(real32), intent(out), target :: log_p(:), grad(:, :)
    real(real32), intent(in), target :: context(:)
    real(real32), intent(out), target, optional :: grad_context(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call log_prob_and_grad(self, rows_32(x), row_32(log_p), rows_32(grad), row_32(context), row_32(grad_context), stat, errmsg)
  end subroutine log_prob_and_grad_shared_32

  subroutine sample_shared_32(self, key, first_context_row, first_draw, x, context, log_p, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    integer(c_int64_t), intent(in) :: key, first_context_row, first_draw
    real(real32), intent(out), target :: x(:, :)
    real(real32), intent(in), target :: context(:)
    real(real32), intent(out), target, optional :: log_p(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call sample(self, key, first_context_row, first_draw, rows_32(x), row_32(context), row_32(log_p), stat, errmsg)
  end subroutine sample_shared_32

  subroutine to_latent_shared_32(self, x, z, context, log_det, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real32), intent(in), target :: x(:, :)
    real(real32), intent(out), target :: z(:, :)
    real(real32), intent(in), target :: context(:)
    real(real32), intent(out), target, optional :: log_det(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call to_latent(self, rows_32(x), rows_32(z), row_32(context), row_32(log_det), stat, errmsg)
  end subroutine to_latent_shared_32

  subroutine to_data_shared_32(self, z, x, context, log_det, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real32), intent(in), target :: z(:, :)
    real(real32), intent(out), target :: x(:, :)
    real(real32), intent(in), target :: context(:)
    real(real32), intent(out), target, optional :: log_det(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call to_data(self, rows_32(z), rows_32(x), row_32(context), row_32(log_det), stat, errmsg)
  end subroutine to_data_shared_32

  subroutine step_shared_32(self, learning_rate, x, context, weight, loss, norm, stat, errmsg)
    class(penstock_trainer), intent(in) :: self
    real(c_double), intent(in) :: learning_rate
    real(real32), intent(in), target :: x(:, :), context(:)
    real(real32), intent(in), target, optional :: weight(:)
    real(c_double), intent(out), optional :: loss, norm
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call trainer_step(self, learning_rate, rows_32(x), row_32(context), row_32(weight), loss, norm, stat, errmsg)
  end subroutine step_shared_32

  subroutine log_prob_row_32(self, x, log_p, context, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real32), intent(in), target :: x(:)
    real(real32), intent(out), target :: log_p
    real(real32), intent(in), target, optional :: context(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call log_prob(self, row_32(x), number_32(log_p), row_32(context), stat, errmsg)
  end subroutine log_prob_row_32

  subroutine log_prob_and_grad_row_32(self, x, log_p, grad, context, grad_context, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real32), intent(in), target :: x(:)
    real(real32), intent(out), target :: log_p, grad(:)
    real(real32), intent(in), target, optional :: context(:)
    real(real32), intent(out), target, optional :: grad_context(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call log_prob_and_grad(self, row_32(x), number_32(log_p), row_32(grad), row_32(context), row_32(grad_context), stat, errmsg)
  end subroutine log_prob_and_grad_row_32

  subroutine sample_row_32(self, key, first_context_row, first_draw, x, context, log_p, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    integer(c_int64_t), intent(in) :: key, first_context_row, first_draw
    real(real32), intent(out), target :: x(:)
    real(real32), intent(in), target, optional :: context(:)
    real(real32), intent(out), target, optional :: log_p
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call sample(self, key, first_context_row, first_draw, row_32(x), row_32(context), number_32(log_p), stat, errmsg)
  end subroutine sample_row_32

  subroutine to_latent_row_32(self, x, z, context, log_det, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real32), intent(in), target :: x(:)
    real(real32), intent(out), target :: z(:)
    real(real32), intent(in), target, optional :: context(:)
    real(real32), intent(out), target, optional :: log_det
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call to_latent(self, row_32(x), row_32(z), row_32(context), number_32(log_det), stat, errmsg)
  end subroutine to_latent_row_32

  subroutine to_data_row_32(self, z, x, context, log_det, stat, errmsg)
    class(penstock_flow), intent(in) :: self
    real(real32), intent(in), target :: z(:)
    real(real32), intent(out), target :: x(:)
    real(real32), intent(in), target, optional :: context(:)
    real(real32), intent(out), target, optional :: log_det
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    call to_data(self, row_32(z), row_32(x), row_32(context), number_32(log_det), stat, errmsg)
  end subroutine to_data_row_32

end module penstock
