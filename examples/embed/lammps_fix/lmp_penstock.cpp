// lmp with fix penstock, for a LAMMPS without the command "plugin", such as Debian 12's. A script must not say "clear", which
// makes the table of fixes anew.
#include <input.h>
#include <lammps.h>
#include <modify.h>
#include <mpi.h>

#include <cstdio>
#include <exception>

#include "fix_penstock.h"

int main(int argc, char **argv) {
  MPI_Init(&argc, &argv);
  try {
    LAMMPS_NS::LAMMPS lammps(argc, argv, MPI_COMM_WORLD);
    (*lammps.modify->fix_map)["penstock"] = &FixPenstock::create;
    lammps.input->file();
  } catch (const std::exception &error) {  // what LAMMPS has printed already
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
}
