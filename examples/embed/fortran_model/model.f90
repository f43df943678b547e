! A time-stepping model whose subgrid terms are drawn from a conditional flow, block by block of cells, with OpenMP.
!
!     model MODEL.safetensors CELLS STEPS BLOCK STATE      writes the last state to the file STATE
!
! Each cell relaxes, T by 0.2 T a step and q by 0.3 q, and gets the terms of its own draw, which depend on T and on the cell's
! moisture. The draw of a cell at a step has the number of the cell and the number of the step, whatever the block and the thread
! that make it: the state is the same, bit for bit, for any number of threads (OMP_NUM_THREADS) and size of blocks. Means and variances
! over time and cells are held against those that follow from the law of train.py.
program model
  use, intrinsic :: iso_fortran_env, only: error_unit, int64, real64
  use penstock, only: penstock_flow, penstock_key_from_seed
  implicit none
  integer, parameter :: temperature = 1, moisture = 2, humidity = 3  ! of a cell, in this order
  real(real64), parameter :: relax_t = 0.2_real64, relax_q = 0.3_real64
  integer, parameter :: n_warm = 50
  type(penstock_flow) :: flow
  character(1000) :: model_file, state_file
  integer :: n_cells, n_steps, block_size, step, i
  integer(int64) :: key
  real(real64), allocatable :: cells(:, :)  ! (3, cell)
  real(real64), allocatable :: sums(:, :)  ! (5, cell): of T, T^2, q, q^2, T q over the steps

  if (command_argument_count() /= 5) then
    write (error_unit, '(a)') 'usage: model MODEL.safetensors CELLS STEPS BLOCK STATE'
    error stop 2
  end if
  call get_command_argument(1, model_file)
  n_cells = number(2)
  n_steps = number(3)
  block_size = number(4)
  call get_command_argument(5, state_file)

  call flow%load(model_file)
  if (flow%dim() /= 2 .or. flow%context_dim() /= 2) error stop 'the model needs a flow of two terms given two numbers'
  key = penstock_key_from_seed(1)

  allocate (cells(3, n_cells), sums(5, n_cells))
  cells = 0
  do i = 1, n_cells
    cells(moisture, i) = (i - 0.5_real64)/n_cells
  end do
  sums = 0
  do step = 1, n_warm + n_steps
    call advance(step)
  end do
  call write_state()
  call compare()

contains

  integer function number(i)
    integer, intent(in) :: i
    character(20) :: word
    call get_command_argument(i, word)
    read (word, *) number
  end function number

  subroutine advance(step)
    integer, intent(in) :: step
    integer :: first, last
    !$omp parallel do schedule(dynamic) private(last)
    do first = 1, n_cells, block_size
      last = min(first + block_size - 1, n_cells)
      call advance_block(step, first, cells(:, first:last), sums(:, first:last))
    end do
    !$omp end parallel do
  end subroutine advance

  subroutine advance_block(step, first, cells, sums)
    integer, intent(in) :: step, first
    real(real64), intent(inout) :: cells(:, :), sums(:, :)
    real(real64) :: terms(2, size(cells, 2))
    integer :: i
    ! The context is where it lies, two numbers of the three of each cell.
    call flow%sample(key, int(first - 1, int64), int(step, int64), terms, cells(temperature:moisture, :))
    do i = 1, size(cells, 2)
      associate (t => cells(temperature, i), q => cells(humidity, i))
        t = t - relax_t*t + terms(1, i)
        q = q - relax_q*q + terms(2, i)
        if (step > n_warm) sums(:, i) = sums(:, i) + [t, t**2, q, q**2, t*q]
      end associate
    end do
  end subroutine advance_block

  subroutine write_state()
    integer :: unit
    open (newunit=unit, file=state_file, access='stream', form='unformatted', status='replace', action='write')
    write (unit) cells
    close (unit)
  end subroutine write_state

  ! By quarters of the cells, from dry to moist. T and q are autoregressive processes of first order given the moisture m, with
  ! coefficients 1 - 0.2 - 0.1 and 1 - 0.3: E T = 0.2 m / 0.3, and a product of two innovations becomes a covariance by division by
  ! 1 - r r' of their coefficients.
  subroutine compare()
    real(real64), parameter :: r_t = 0.7_real64, r_q = 0.7_real64
    real(real64) :: m, s, got(5), exact(5), mean(5), law(5), scale
    integer :: quarter, i, first, last
    logical :: good
    good = .true.
    write (*, '(a)') 'quarter     E T   truth    E q   truth  Var T   truth  Var q   truth  Cov Tq  truth'
    do quarter = 1, 4
      first = (quarter - 1)*n_cells/4 + 1
      last = quarter*n_cells/4
      mean = 0
      law = 0
      do i = first, last
        m = cells(moisture, i)
        s = 0.2_real64 + 0.3_real64*m
        got = sums(:, i)/n_steps
        exact(1) = 0.2_real64*m/(1 - r_t)
        exact(2) = 0
        exact(3) = s**2/(1 - r_t**2)
        exact(4) = (0.25_real64*s**2 + 0.04_real64)/(1 - r_q**2)
        exact(5) = 0.5_real64*s**2/(1 - r_t*r_q)
        ! about the exact means, which is free of bias for short runs
        mean = mean + [got(1), got(3), got(2) - 2*got(1)*exact(1) + exact(1)**2, got(4), got(5) - got(3)*exact(1)]
        law = law + exact
      end do
      mean = mean/(last - first + 1)
      law = law/(last - first + 1)
      write (*, '(i7, 5(2f8.4))') quarter, (mean(i), law(i), i=1, 5)
      scale = sqrt(law(3))
      good = good .and. all(abs(mean(1:2) - law(1:2)) < 0.1_real64*scale) .and. all(abs(mean(3:5)/law(3:5) - 1) < 0.1_real64)
    end do
    if (.not. good) error stop 'a mean is off by more than a tenth of a standard deviation, or a variance by more than a tenth'
  end subroutine compare
end program model
