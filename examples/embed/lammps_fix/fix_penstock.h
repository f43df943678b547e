// fix ID group penstock FILE T
//
// An external potential on each atom of the group, U(x) = -kB T log p(x), where p is the density of the flow in FILE and x the
// first dim coordinates of the atom, unwrapped, in the units of the script. Adds the force kB T grad log p(x) and, after
// "fix_modify ID energy yes", its energy, which f_ID is in any case. Not for rRESPA, and without a virial.
#ifndef FIX_PENSTOCK_H
#define FIX_PENSTOCK_H

#include <fix.h>

#include <optional>
#include <penstock/penstock.hpp>
#include <vector>

class FixPenstock : public LAMMPS_NS::Fix {
 public:
  FixPenstock(LAMMPS_NS::LAMMPS *lammps, int n_args, char **args);

  int setmask() override;
  void init() override;
  void setup(int vflag) override { post_force(vflag); }
  void min_setup(int vflag) override { post_force(vflag); }
  void post_force(int vflag) override;
  void min_post_force(int vflag) override { post_force(vflag); }
  double compute_scalar() override;

  // What LAMMPS calls for each "fix ... penstock ..." of a script.
  static LAMMPS_NS::Fix *create(LAMMPS_NS::LAMMPS *lammps, int n_args, char **args) {
    return new FixPenstock(lammps, n_args, args);
  }

 private:
  std::optional<penstock::Flow> flow_;
  double temperature_ = 0.0;
  double energy_ = 0.0;  // of the atoms of this process

  // Atoms of the group on this process: their places in LAMMPS's arrays, and rows of the flow.
  std::vector<int> atoms_;
  std::vector<double> x_, log_p_, grad_;
};

#endif
