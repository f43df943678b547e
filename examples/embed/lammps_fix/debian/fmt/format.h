// Debian's liblammps-dev leaves out the {fmt} that LAMMPS brings along, and its libfmt-dev is another version. These are the names
// that LAMMPS's headers mention: enough for code that hands LAMMPS finished strings, which is all that is done here.
#ifndef FMT_FORMAT_H
#define FMT_FORMAT_H

namespace fmt {

class string_view;
class format_args;

template <class... Args, class Format, class... Given>
format_args make_args_checked(const Format &, const Given &...);

}  // namespace fmt

#endif
