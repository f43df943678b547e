! What penstock.f90 adds to the C calls: `objects MODELS`, the folder of models that write_models.py wrote; `objects MODELS end`,
! which an error without stat= ends; `objects MODELS many`, which loads and leaves models, for limited memory.
program objects
  use, intrinsic :: iso_fortran_env, only: error_unit, int8, int64, real32, real64
  use penstock
  implicit none
  character(:), allocatable :: folder
  character(200) :: sentence
  character(4) :: what
  integer :: length, stat, i
  call get_command_argument(1, length=length)
  allocate (character(length) :: folder)
  call get_command_argument(1, folder)
  call get_command_argument(2, what)
  if (what == 'end') call end_by_an_error()
  if (what == 'many') then
    do i = 1, 3000
      call load_and_leave()
    end do
    stop
  end if
  call strides()
  call one_row()
  call contexts()
  call refusals()
  call none_at_all()
  call owners()
  call trainers()
  call the_library()

contains

  subroutine check(fine, what)
    logical, intent(in) :: fine
    character(*), intent(in) :: what
    if (fine) return
    write (error_unit, '(2a)') 'not so: ', what
    error stop 1
  end subroutine check

  ! That the last call was refused with a sentence that begins so.
  subroutine refused(status, begin)
    integer, intent(in) :: status
    character(*), intent(in) :: begin
    if (stat == status .and. index(sentence, begin) == 1) return
    write (error_unit, '(a, i0, 4a)') 'status ', stat, ': ', trim(sentence), ' and not ', begin
    error stop 1
  end subroutine refused

  subroutine load(name, flow)
    character(*), intent(in) :: name
    type(penstock_flow), intent(inout) :: flow
    call flow%load(folder//'/'//name//'.safetensors   ')
  end subroutine load

  subroutine fill(x)
    real(real64), intent(out) :: x(:, :)
    integer :: i, j
    do j = 1, size(x, 2)
      do i = 1, size(x, 1)
        x(i, j) = mod((i + 5*j)*7, 11)/8.0_real64 - 0.5_real64
      end do
    end do
  end subroutine fill

  ! Columns may lie anywhere, forward and backward; the numbers of one may not.
  subroutine strides()
    type(penstock_flow) :: flow
    integer, parameter :: n = 7
    real(real64), allocatable :: wide(:, :), x(:, :), log_p(:), found(:), grad(:, :), own(:, :), transposed(:, :), every(:)
    integer :: dim
    call load('flow', flow)
    dim = flow%dim()
    allocate (wide(dim + 3, 2*n), x(dim, n), log_p(n), found(n), grad(dim, n), own(dim, n), transposed(n, dim), every(2*n))
    call fill(wide)
    x = wide(3:dim + 2, ::2)
    call flow%log_prob(x, log_p)
    call flow%log_prob(wide(3:dim + 2, ::2), found)
    call check(all(found == log_p), 'columns of a wider array')
    call flow%log_prob(wide(3:dim + 2, 2*n - 1:1:-2), found)
    call check(all(found(n:1:-1) == log_p), 'columns backward')
    call flow%log_prob_and_grad(x, log_p, grad)
    own = wide(3:dim + 2, 2::2)
    call flow%log_prob_and_grad(x, found, wide(3:dim + 2, ::2))
    call check(all(found == log_p) .and. all(wide(3:dim + 2, ::2) == grad), 'gradients into a wider array')
    call check(all(wide(3:dim + 2, 2::2) == own), 'what lies between them')
    call flow%log_prob(x(:, 3:3), found(3:3))
    call check(found(3) == log_p(3), 'one column')
    transposed = transpose(x)
    call backward(flow, transposed, found)
    call refused(penstock_error_argument, 'x must have unit stride in its first dimension')
    call flow%log_prob(x, every(::2), stat=stat, errmsg=sentence)
    call refused(penstock_error_argument, 'log_p must have unit stride')
  end subroutine strides

  ! A transposed array, as a pointer that no copy was made for.
  subroutine backward(flow, transposed, found)
    type(penstock_flow), intent(in) :: flow
    real(real64), intent(in), target, contiguous :: transposed(:, :)
    real(real64), intent(out) :: found(:)
    real(real64), pointer :: flat(:), long(:, :), x(:, :)
    flat(1:size(transposed)) => transposed
    long(1:2*flow%dim(), 1:size(flat)/(2*flow%dim())) => flat
    x => long(1::2, :)
    call flow%log_prob(x, found(:size(x, 2)), stat=stat, errmsg=sentence)
  end subroutine backward

  subroutine one_row()
    type(penstock_flow) :: flow
    real(real64), allocatable :: x(:, :), log_p(:), grad(:, :), own(:)
    real(real32), allocatable :: narrow(:, :), narrow_log_p(:)
    real(real64) :: value, log_det
    real(real32) :: narrow_value
    integer(int64) :: key
    call load('flow', flow)
    allocate (x(flow%dim(), 3), log_p(3), grad(flow%dim(), 3), own(flow%dim()), narrow(flow%dim(), 3), narrow_log_p(3))
    key = penstock_key_from_seed(5)
    call flow%sample(key, 0_int64, 9_int64, x, log_p=log_p)
    call flow%sample(key, 0_int64, 10_int64, own, log_p=value)
    call check(all(own == x(:, 2)) .and. value == log_p(2), 'one draw of three')
    call flow%log_prob_and_grad(x, log_p, grad)
    call flow%log_prob_and_grad(x(:, 2), value, own)
    call check(all(own == grad(:, 2)) .and. value == log_p(2), 'one gradient of three')
    call flow%to_latent(x(:, 2), own, log_det=log_det)
    call flow%to_data(own, grad(:, 2), log_det=value)
    call check(all(abs(grad(:, 2) - x(:, 2)) < 1e-3_real64) .and. abs(value + log_det) < 1e-3_real64, 'there and back')
    narrow = real(x, real32)
    call flow%log_prob(narrow, narrow_log_p)
    call flow%log_prob(narrow(:, 2), narrow_value)
    call check(narrow_value == narrow_log_p(2) .and. abs(narrow_value - log_p(2)) < 1e-3_real64, 'real32')
  end subroutine one_row

  ! One context for all is of rank 1; of rank 2 it has a column for each row, and its gradient has, too.
  subroutine contexts()
    type(penstock_flow) :: flow
    integer, parameter :: n = 5
    real(real64), allocatable :: x(:, :), context(:, :), one(:), log_p(:), found(:), grad(:, :), of_each(:, :), of_one(:)
    integer :: dim, c, i
    call load('given', flow)
    dim = flow%dim()
    c = flow%context_dim()
    call check(c > 0, 'a flow with a context')
    allocate (x(dim, n), context(c, n), log_p(n), found(n), grad(dim, n), of_each(c, n), of_one(c))
    call fill(x)
    call fill(context)
    one = context(:, 2)
    do i = 1, n
      context(:, i) = one
    end do
    call flow%log_prob_and_grad(x, log_p, grad, context, of_each)
    call flow%log_prob_and_grad(x, found, grad, one, of_one)
    call check(all(found == log_p), 'a context for all')
    call check(all(abs(sum(of_each, 2) - of_one) < 1e-4_real64*(1 + abs(of_one))), 'the sum of its gradients')
    call flow%sample(1_int64, 3_int64, 4_int64, x, context)
    call flow%sample(1_int64, 4_int64, 4_int64, grad(:, 1:2), context(:, 2:3))
    call check(all(grad(:, 1:2) == x(:, 2:3)), 'a block of cells')
    call flow%log_prob(x, log_p, context(:, :1), stat=stat, errmsg=sentence)
    call refused(penstock_error_argument, 'context must have shape (')
    call flow%log_prob(x, log_p, stat=stat, errmsg=sentence)
    call refused(penstock_error_argument, 'context must be given')
    call flow%log_prob_and_grad(x, log_p, grad, grad_context=of_each, stat=stat, errmsg=sentence)
    call refused(penstock_error_argument, 'grad_context without a context')
    call flow%log_prob_and_grad(x, log_p, grad, context, of_each(:, :0), stat=stat, errmsg=sentence)
    call refused(penstock_error_argument, 'grad_context must have shape (')
    call load('flow', flow)
    deallocate (x)
    allocate (x(flow%dim(), n))
    call fill(x)
    call flow%log_prob(x, log_p, context, stat=stat, errmsg=sentence)
    call refused(penstock_error_argument, 'the flow takes no context')
  end subroutine contexts

  subroutine refusals()
    type(penstock_flow) :: flow
    real(real64) :: x(2, 3), log_p(3), too_few(2)
    real(real64), allocatable :: fitting(:, :)
    character(10) :: short
    x = 0
    sentence = 'left alone'
    call flow%log_prob(x, log_p, stat=stat, errmsg=sentence)
    call refused(penstock_error_argument, 'the flow is empty')
    call flow%load(folder//'/nothing.safetensors', stat=stat, errmsg=sentence)
    call check(stat == penstock_error_file .and. index(sentence, 'nothing.safetensors') > 0, 'a file that is not there')
    call flow%load(folder//'/nothing.safetensors', stat=stat, errmsg=short)
    call check(short == sentence(:10), 'a short variable for a sentence')
    call load('flow', flow)
    allocate (fitting(flow%dim() + 1, 3))
    fitting = 0
    call flow%log_prob(fitting, log_p, stat=stat, errmsg=sentence)
    call refused(penstock_error_argument, 'x must have shape (')
    call flow%log_prob(fitting(2:, :), too_few, stat=stat, errmsg=sentence)
    call refused(penstock_error_argument, 'log_p must have 3 elements, one for each column, got 2')
    call flow%sample(1_int64, 0_int64, 0_int64, fitting(2:, :), log_p=too_few(:0), stat=stat, errmsg=sentence)
    call refused(penstock_error_argument, 'log_p must have 3 elements, one for each column, got 0')
    call flow%load(folder//'/nothing.safetensors', stat=stat)
    sentence = 'left alone'
    call flow%log_prob(fitting(2:, :), log_p, stat=stat, errmsg=sentence)
    call check(stat == penstock_ok .and. sentence == 'left alone', 'a flow is as it was after a load that failed')
    call load('ensemble', flow)
    call check(flow%n_members() > 1, 'an ensemble')
    deallocate (fitting)
    allocate (fitting(flow%dim(), 3))
    fitting = 0
    call flow%to_latent(fitting, fitting(:, :), stat=stat, errmsg=sentence)
    call refused(penstock_error_unsupported, 'an ensemble has no to_latent')
  end subroutine refusals

  ! No column at all.
  subroutine none_at_all()
    type(penstock_flow) :: flow
    real(real64), allocatable :: x(:, :), log_p(:), grad(:, :), context(:, :), of_one(:), one(:)
    call load('given', flow)
    allocate (x(flow%dim(), 0), grad(flow%dim(), 0), log_p(0), context(flow%context_dim(), 0), of_one(flow%context_dim()))
    allocate (one(flow%context_dim()))
    one = 0
    of_one = 1
    call flow%log_prob_and_grad(x, log_p, grad, one, of_one)
    call check(all(of_one == 0), 'the sum of no gradients')
    call flow%log_prob(x, log_p, context)
    call flow%sample(1_int64, 0_int64, 0_int64, x, context, log_p)
  end subroutine none_at_all

  subroutine owners()
    type(penstock_flow) :: first, second
    type(penstock_flow), allocatable :: many(:)
    integer(int8), allocatable :: bytes(:), again(:)
    real(real64), allocatable :: x(:, :), log_p(:), found(:)
    call load('flow', first)
    allocate (x(first%dim(), 4), log_p(4), found(4))
    call fill(x)
    call first%log_prob(x, log_p)
    second = first
    first = first
    allocate (many(2))
    many(2) = second
    many = [many(2), many(2)]
    call first%free()
    call second%log_prob(x, found)
    call check(all(found == log_p), 'a copy of a flow that is gone')
    second = first
    call check(second%dim() == 0, 'a copy of an empty flow')
    call many(1)%log_prob(x, found)
    call check(all(found == log_p), 'flows in an array')
    call many(2)%save_bytes(bytes)
    call first%load_bytes(bytes)
    call first%save_bytes(again)
    call check(size(bytes) == size(again), 'as many bytes')
    call check(all(bytes == again), 'the same bytes')
    call first%log_prob(x, found)
    call check(all(found == log_p), 'a flow of bytes')
    call second%save_bytes(again, stat=stat, errmsg=sentence)
    call check(stat == penstock_error_argument .and. .not. allocated(again), 'bytes of an empty flow')
    call check(first%column_name(1) == '', 'a name that there is not')
    call load('given', second)
    call check(second%column_name(1) == 'mass' .and. second%column_name(2) == 'charge', 'names of columns')
    call check(second%column_name(0) == '' .and. second%column_name(4) == '', 'names outside of the columns')
    call check(second%context_column_name(2) == 'age', 'a name of the context')
  end subroutine owners

  subroutine trainers()
    type(penstock_flow) :: flow, trained
    type(penstock_trainer) :: trainer, other
    real(real64), allocatable :: x(:, :), weight(:)
    real(real64) :: loss, first, norm
    integer :: i
    call load('flow', flow)
    allocate (x(flow%dim(), 64), weight(64))
    call trainer%step(1e-3_real64, x, stat=stat, errmsg=sentence)
    call refused(penstock_error_argument, 'the trainer is empty')
    call flow%sample(penstock_key_from_seed(1_int64), 0_int64, 0_int64, x)
    x = 0.5_real64*x
    weight = 1
    call trainer%new(flow, beta1=2.0_real64, stat=stat, errmsg=sentence)
    call check(stat == penstock_error_argument, 'an option that is none')
    call trainer%new(flow, clip_norm=1.0_real64)
    call flow%free()
    do i = 1, 50
      call trainer%step(1e-2_real64, x, weight=weight, loss=loss, norm=norm)
      if (i == 1) first = loss
    end do
    call check(trainer%steps() == 50 .and. loss < first .and. norm > 0, 'steps make the loss less')
    call trainer%flow(trained)
    call check(trained%dim() == size(x, 1), 'a trained flow')
    call trainer%step(1e-2_real64, x(2:, :), stat=stat, errmsg=sentence)
    call refused(penstock_error_argument, 'x must have shape (')
    other = trainer
    trainer = trainer
    call check(other%steps() == 0 .and. trainer%steps() == 50, 'trainers are not copied')
  end subroutine trainers

  subroutine the_library()
    call penstock_set_num_threads(0, stat=stat, errmsg=sentence)
    call refused(penstock_error_argument, 'n must be')
    call penstock_set_num_threads(2)
    call penstock_set_local_num_threads(3)
    call check(penstock_num_threads() == 3, 'threads')
    call penstock_set_local_num_threads(0)
    call check(penstock_num_threads() == 2, 'threads of the process')
    call penstock_trim()
    call check(len(penstock_isa()) > 0 .and. index(penstock_version(), '.') > 0, 'what the library is')
    call check(penstock_status_string(penstock_error_busy) == 'busy', 'a word for a status')
    call check(penstock_key_from_seed(7) == penstock_key_from_seed(7_int64), 'keys')
    call penstock_shutdown()
  end subroutine the_library

  ! The end of the scope frees.
  subroutine load_and_leave()
    type(penstock_flow) :: flow, other
    type(penstock_trainer) :: trainer
    call load('flow', flow)
    call trainer%new(flow)
    call trainer%flow(other)
    call trainer%flow(other)
    flow = other
    call trainer%new(flow)
  end subroutine load_and_leave

  subroutine end_by_an_error()
    type(penstock_flow) :: flow
    call flow%load(folder//'/nothing.safetensors')
    print '(a)', 'never here'
  end subroutine end_by_an_error
end program objects
