! Computes what tests/c_cases.py asks for, through penstock.f90: agree.c says what stands in the files. Outputs that nobody
! wants are computed where the module has no way to leave them out, and not written.
module agree_files
  use, intrinsic :: iso_fortran_env, only: error_unit, int64
  implicit none
  integer, parameter :: log_prob = 0, log_prob_and_grad = 1, sample = 2, to_latent = 3, to_data = 4, train = 5, describe = 6, &
                        save_again = 7
  integer, parameter :: want_values = 1, want_rows = 2, want_grad_context = 4, want_weights = 1
  character(:), allocatable :: folder
  integer :: calls, results

contains

  logical function wanted(word, what)
    integer(int64), intent(in) :: word(0:)
    integer, intent(in) :: what
    wanted = iand(word(10), int(what, int64)) /= 0
  end function wanted

  function path_of(name, number) result(path)
    character(*), intent(in) :: name
    integer(int64), intent(in) :: number
    character(:), allocatable :: path
    character(20) :: digits
    write (digits, '(i0)') number
    path = folder//'/'//name//trim(digits)//'.safetensors'
  end function path_of

  subroutine need(fine, what)
    logical, intent(in) :: fine
    character(*), intent(in) :: what
    if (fine) return
    write (error_unit, '(2a)') 'agree: ', what
    error stop 1
  end subroutine need
end module agree_files

module agree_64
  use, intrinsic :: iso_fortran_env, only: wp => real64
  include 'agree_verbs.inc'
end module agree_64

module agree_32
  use, intrinsic :: iso_fortran_env, only: wp => real32
  include 'agree_verbs.inc'
end module agree_32

program agree
  use, intrinsic :: iso_fortran_env, only: int64, iostat_end
  use agree_files
  use agree_32, only: answer_32 => answer
  use agree_64, only: answer_64 => answer
  use penstock, only: penstock_flow, penstock_ok
  implicit none
  type(penstock_flow) :: flow
  integer(int64) :: word(0:15), model
  integer :: length, status
  call get_command_argument(1, length=length)
  call need(command_argument_count() == 1 .and. length > 0, 'usage: agree FOLDER')
  allocate (character(length) :: folder)
  call get_command_argument(1, folder)
  open (newunit=calls, file=folder//'/calls.bin', access='stream', form='unformatted', status='old', action='read')
  open (newunit=results, file=folder//'/results.bin', access='stream', form='unformatted', status='replace', action='write')
  model = -1
  do
    read (calls, iostat=status) word
    if (status == iostat_end) exit
    call need(status == 0, 'calls.bin cannot be read')
    if (word(0) /= model) then
      model = word(0)
      call flow%load(path_of('model_', model))
    end if
    select case (word(1))
    case (describe)
      write (results) int([penstock_ok, flow%dim(), flow%context_dim(), flow%dtype(), flow%n_members()], int64)
    case (save_again)
      call flow%save(path_of('saved_', model), stat=status)
      write (results) int(status, int64)
    case default
      if (word(2) == 64) call answer_64(flow, word)
      if (word(2) == 32) call answer_32(flow, word)
    end select
  end do
  close (results)
end program agree
