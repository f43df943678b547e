#include "fix_penstock.h"

#include <atom.h>
#include <comm.h>
#include <domain.h>
#include <error.h>
#include <force.h>
#include <update.h>

#include <cmath>
#include <cstring>
#include <string>

using namespace LAMMPS_NS;

FixPenstock::FixPenstock(LAMMPS *lammps, int n_args, char **args) : Fix(lammps, n_args, args) {
  if (n_args != 5) error->all(FLERR, std::string("fix penstock: expected FILE and T"));
  temperature_ = utils::numeric(FLERR, args[4], false, lmp);
  try {
    // Every process reads the file: one(), since it may be there for some of them only.
    flow_ = penstock::Flow::load(args[3]);
    // Threads as LAMMPS was told ("package omp N"); the results do not depend on how many.
    penstock::set_num_threads(comm->nthreads);
  } catch (const penstock::Error &failure) {
    error->one(FLERR, std::string("fix penstock: ") + failure.what());
  }
  if (flow_->dim() > 3 || flow_->context_dim() > 0)
    error->all(FLERR, std::string("fix penstock: ") + args[3] + " is not the density of a position");
  dynamic_group_allow = 1;
  energy_global_flag = 1;
  scalar_flag = 1;
  extscalar = 1;
  global_freq = 1;
}

int FixPenstock::setmask() { return FixConst::POST_FORCE | FixConst::MIN_POST_FORCE; }

void FixPenstock::init() {
  if (std::strncmp(update->integrate_style, "respa", 5) == 0)
    error->all(FLERR, std::string("fix penstock does not work with rRESPA"));
}

void FixPenstock::post_force(int) {
  const auto dim = static_cast<int>(flow_->dim());
  atoms_.clear();
  x_.clear();
  for (int i = 0; i < atom->nlocal; ++i) {
    if (!(atom->mask[i] & groupbit)) continue;
    double x[3];
    domain->unmap(atom->x[i], atom->image[i], x);
    atoms_.push_back(i);
    x_.insert(x_.end(), x, x + dim);
  }
  log_p_.resize(atoms_.size());
  grad_.resize(x_.size());
  try {
    flow_->log_prob_and_grad(x_, penstock::none, log_p_, grad_);
  } catch (const penstock::Error &failure) {
    error->one(FLERR, std::string("fix penstock: ") + failure.what());
  }

  const double kT = force->boltz * temperature_;
  energy_ = 0.0;
  for (std::size_t row = 0; row < atoms_.size(); ++row) {
    const int i = atoms_[row];
    if (!std::isfinite(log_p_[row]))
      error->one(FLERR, "fix penstock: atom " + std::to_string(atom->tag[i]) + " is where the flow has no density");
    energy_ -= kT * log_p_[row];
    for (int k = 0; k < dim; ++k) atom->f[i][k] += kT * grad_[row * dim + k];
  }
}

double FixPenstock::compute_scalar() {
  double sum = 0.0;
  MPI_Allreduce(&energy_, &sum, 1, MPI_DOUBLE, MPI_SUM, world);
  return sum;
}
