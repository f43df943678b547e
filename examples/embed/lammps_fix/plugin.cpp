// What "plugin load" looks for. The structure is that of LAMMPS's lammpsplugin.h, which packages of LAMMPS do not install.
#include <error.h>
#include <lammps.h>

#include "fix_penstock.h"

namespace {

// LAMMPS unloads plugins: nothing of penstock may stay in its threads.
struct Unload {
  ~Unload() { penstock_shutdown(); }
} unload;

}  // namespace

extern "C" {

struct lammpsplugin_t {
  const char *version, *style, *name, *info, *author;
  LAMMPS_NS::Fix *(*creator)(LAMMPS_NS::LAMMPS *, int, char **);
  void *handle;
};

__attribute__((visibility("default"))) void lammpsplugin_init(void *host, void *handle, void *add) {
  auto *lammps = static_cast<LAMMPS_NS::LAMMPS *>(host);
  // Members of classes move from one version of LAMMPS to the next.
  if (lammps->num_ver != LAMMPS_BUILT_FOR)
    lammps->error->all(FLERR, "fix penstock was built for LAMMPS " + std::to_string(LAMMPS_BUILT_FOR) + ", this is " +
                                  std::to_string(lammps->num_ver));
  lammpsplugin_t plugin = {lammps->version,      "fix", "penstock", "fix penstock", "penstock",
                           &FixPenstock::create, handle};
  reinterpret_cast<void (*)(lammpsplugin_t *, void *)>(add)(&plugin, host);
}
}
