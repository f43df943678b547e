# The modules with devices: _cuda for NVIDIA's GPUs, of the package penstock_cuda13, and _cuda_emulated, beside _core, for tests. Each
# has the whole engine in itself, and needs nothing of the library.
if(PENSTOCK_CUDA STREQUAL "AUTO")
  include(CheckLanguage)
  check_language(CUDA)
  set(PENSTOCK_CUDA_FOUND ${CMAKE_CUDA_COMPILER})
else()
  set(PENSTOCK_CUDA_FOUND ${PENSTOCK_CUDA})
endif()

# What is the same for both.
set(PENSTOCK_CUDA_SOURCES
  cpp/cuda/calls.cpp
  cpp/cuda/device.cpp
  cpp/cuda/image.cpp
  cpp/cuda/kernels.cpp
  cpp/cuda/training.cpp
  cpp/cuda/verbs.cpp
  cpp/cuda/walking.cpp
)
# The variants of the kernels that walk, the narrower ones first, and the parts of flows that each has (transforms/parts.hpp); those of
# the last one are all. A build may have some alone, for a first look; its module refuses other flows by name.
set(PENSTOCK_VARIANTS device_affine device_spline device_affine_lu device_spline_lu device_maf device_spline_ar device_every)
set(PENSTOCK_CUDA_VARIANTS "${PENSTOCK_VARIANTS}" CACHE STRING "the variants of kernels that are built, separated by semicolons")
set(PENSTOCK_PARTS_device_affine "1u<<transform_affine|1u<<transform_additive|part_coupling")
set(PENSTOCK_PARTS_device_spline "1u<<transform_rational_quadratic|part_coupling")
set(PENSTOCK_PARTS_device_affine_lu "1u<<transform_affine|1u<<transform_additive|part_coupling|part_free|part_lu_linear|part_activations")
set(PENSTOCK_PARTS_device_spline_lu "1u<<transform_rational_quadratic|part_coupling|part_lu_linear|part_activations")
set(PENSTOCK_PARTS_device_maf "1u<<transform_affine|part_autoregressive|part_lu_linear|part_activations")
set(PENSTOCK_PARTS_device_spline_ar "1u<<transform_rational_quadratic|part_autoregressive|part_lu_linear|part_activations")

# The kernels of an emulated device as nvcc makes them: PTX, in C++. What a GPU may compute with other bits is an error then.
set(PENSTOCK_PTX_FLAGS -std=c++20 -arch=compute_90 -ptx -O3 -fmad=false -prec-div=true -prec-sqrt=true -ftz=false
  --expt-relaxed-constexpr -diag-suppress 1675 -DPENSTOCK_CUDA_EMULATED=0 -DPENSTOCK_DEVICE -DPENSTOCK_DEVICE_ROWS=128)
set(PENSTOCK_HEADERS ${PENSTOCK_SOURCES})
list(FILTER PENSTOCK_HEADERS INCLUDE REGEX "\\.hpp$")
function(penstock_ptx name source result)
  set(path ${CMAKE_CURRENT_BINARY_DIR}/ptx/${name})
  set(tools ${CMAKE_CURRENT_SOURCE_DIR}/tests/cuda)
  set(parts "")
  if(DEFINED PENSTOCK_PARTS_${name})
    set(parts "-DPENSTOCK_PARTS=(${PENSTOCK_PARTS_${name}})")
  endif()
  file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/ptx)
  add_custom_command(
    OUTPUT ${path}.ptx
    COMMAND ${PENSTOCK_NVCC} ${PENSTOCK_PTX_FLAGS} -I${CMAKE_CURRENT_SOURCE_DIR}/cpp -DPENSTOCK_ISA=${name} ${parts}
            ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${path}.ptx
    DEPENDS ${PENSTOCK_HEADERS} ${source}
    COMMENT "PTX of ${name}"
    VERBATIM)
  add_custom_command(
    OUTPUT ${path}.cpp
    COMMAND ${Python_EXECUTABLE} ${tools}/ptx_on_host.py --own-names ${path}.ptx --output ${path}.cpp
    DEPENDS ${path}.ptx ${tools}/ptx_on_host.py ${tools}/ptx_body.py ${tools}/ptx_text.py
    COMMENT "C++ of the PTX of ${name}"
    VERBATIM)
  set_source_files_properties(${path}.cpp PROPERTIES COMPILE_OPTIONS "-O1;-I${tools}")
  set(${result} ${path}.cpp PARENT_SCOPE)
endfunction()

# The kernels: body(source, name, definitions) of each, as an object library.
function(penstock_kernels emulated flags)
  foreach(name ${PENSTOCK_CUDA_VARIANTS} device_sums)
    set(source cpp/cuda/kernels.cu)
    if(name STREQUAL "device_sums")
      set(source cpp/cuda/sums.cu)
    endif()
    set(target ${name})
    if(emulated)
      set(target ${name}_emulated)
    endif()
    set(translated "")
    if(emulated AND (PENSTOCK_CUDA_PTX STREQUAL "all" OR name IN_LIST PENSTOCK_CUDA_PTX))
      penstock_ptx(${name} ${source} translated)
    endif()
    add_library(${target} OBJECT ${source} ${translated})
    if(translated)
      target_compile_definitions(${target} PRIVATE PENSTOCK_CUDA_PTX)
    endif()
    if(emulated)
      set_source_files_properties(${source} PROPERTIES LANGUAGE CXX)
    endif()
    target_include_directories(${target} PRIVATE cpp)
    target_compile_definitions(${target} PRIVATE PENSTOCK_CUDA_EMULATED=${emulated} PENSTOCK_DEVICE PENSTOCK_DEVICE_ROWS=128
      PENSTOCK_ISA=${name})
    if(DEFINED PENSTOCK_PARTS_${name})
      target_compile_definitions(${target} PRIVATE "PENSTOCK_PARTS=(${PENSTOCK_PARTS_${name}})")
    endif()
    target_compile_options(${target} PRIVATE ${flags})
  endforeach()
endfunction()
function(penstock_kernel_objects suffix result)
  set(objects "")
  foreach(name ${PENSTOCK_CUDA_VARIANTS} device_sums)
    list(APPEND objects $<TARGET_OBJECTS:${name}${suffix}>)
  endforeach()
  set(${result} ${objects} PARENT_SCOPE)
endfunction()

# X(name) for each, for kernels.cpp.
list(TRANSFORM PENSTOCK_CUDA_VARIANTS REPLACE "(.+)" "X(\\1)" OUTPUT_VARIABLE PENSTOCK_VARIANTS_LIST)
list(JOIN PENSTOCK_VARIANTS_LIST " " PENSTOCK_VARIANTS_LIST)
set_property(SOURCE cpp/cuda/kernels.cpp APPEND PROPERTY COMPILE_OPTIONS "-DPENSTOCK_VARIANTS(X)=${PENSTOCK_VARIANTS_LIST}")

function(penstock_device_module module folder emulated)
  pybind11_add_module(${module} MODULE NO_EXTRAS
    cpp/bindings/cuda.cpp cpp/bindings/module.cpp ${PENSTOCK_CUDA_SOURCES} ${ARGN} ${PENSTOCK_OBJECTS})
  add_dependencies(${module} penstock_digest)
  set_target_properties(${module} PROPERTIES VISIBILITY_INLINES_HIDDEN ON LINKER_LANGUAGE CXX)
  target_include_directories(${module} PRIVATE cpp ${CMAKE_CURRENT_BINARY_DIR}/generated)
  target_link_libraries(${module} PRIVATE Threads::Threads)
  target_compile_options(${module} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${PENSTOCK_FLAGS}>)
  target_compile_definitions(${module} PRIVATE
    PENSTOCK_MODULE=${module} PENSTOCK_BACKEND="cuda" PENSTOCK_VERSION="${PROJECT_VERSION}"
    PENSTOCK_CUDA_EMULATED=${emulated} ${PENSTOCK_DEFINITIONS})
  configure_file(cmake/exports.map.in generated/${module}.map @ONLY)
  penstock_closed(${module} ${CMAKE_CURRENT_BINARY_DIR}/generated/${module}.map)
  if(SKBUILD)
    install(TARGETS ${module} LIBRARY DESTINATION ${folder})
  endif()
endfunction()

if(PENSTOCK_CUDA_EMULATE)
  if(PENSTOCK_CUDA_PTX)
    find_program(PENSTOCK_NVCC nvcc HINTS ENV CUDA_PATH PATH_SUFFIXES bin)
    if(NOT PENSTOCK_NVCC)
      message(FATAL_ERROR "PENSTOCK_CUDA_PTX needs nvcc: put it on the path, or name it in PENSTOCK_NVCC")
    endif()
    foreach(name ${PENSTOCK_CUDA_PTX})
      if(NOT name IN_LIST PENSTOCK_VARIANTS AND NOT name STREQUAL "device_sums" AND NOT PENSTOCK_CUDA_PTX STREQUAL "all")
        message(FATAL_ERROR "PENSTOCK_CUDA_PTX: there is no ${name}; there are all, device_sums and ${PENSTOCK_VARIANTS}")
      endif()
    endforeach()
  endif()
  # Integers of lanes wrap in kernels. A product is one fma where the machine has it.
  set(PENSTOCK_EMULATED_FLAGS -x c++ ${PENSTOCK_FLAGS} -fwrapv)
  if(PENSTOCK_PROCESSOR STREQUAL "X86")
    list(APPEND PENSTOCK_EMULATED_FLAGS ${PENSTOCK_V3})
  endif()
  penstock_kernels(1 "${PENSTOCK_EMULATED_FLAGS}")
  penstock_kernel_objects(_emulated objects)
  penstock_device_module(_cuda_emulated penstock 1 cpp/cuda/device_host.cpp cpp/cuda/simt.cpp ${objects})
endif()

if(PENSTOCK_CUDA_FOUND)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90-real 100-real 120)  # the last one also as PTX, for what comes
  endif()
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  enable_language(CUDA)
  # What nvcc compiles. Without CMake's words for a standard: CMake 3.25 does not know that nvcc 13 has C++20, and where one is required
  # for C++ it would add C++17 behind.
  unset(CMAKE_CXX_STANDARD)
  unset(CMAKE_CXX_STANDARD_REQUIRED)
  add_library(penstock_cuda_objects OBJECT
    cpp/cuda/device_cuda.cu
  )
  target_include_directories(penstock_cuda_objects PRIVATE cpp)
  string(REGEX MATCH "[0-9]+" PENSTOCK_CUDA_OLDEST "${CMAKE_CUDA_ARCHITECTURES}")
  target_compile_definitions(penstock_cuda_objects PRIVATE PENSTOCK_CUDA_EMULATED=0 PENSTOCK_CUDA_OLDEST=${PENSTOCK_CUDA_OLDEST})
  # A product must not fuse with a sum: the bits are those of the processor. Division, roots and denormals are IEEE's by default.
  list(JOIN PENSTOCK_ARITHMETIC "," arithmetic)
  target_compile_options(penstock_cuda_objects PRIVATE
    -std=c++20 -fmad=false --expt-relaxed-constexpr -Werror=cross-execution-space-call
    -Xcompiler=${arithmetic},-Wall,-Wextra,-fvisibility=hidden,-fPIC)
  penstock_kernels(0 "-std=c++20;-fmad=false;-prec-div=true;-prec-sqrt=true;-ftz=false;--expt-relaxed-constexpr;-diag-suppress=1675;\
-Xcompiler=-fvisibility=hidden,-fPIC")
  set(CMAKE_CXX_STANDARD 20)
  set(CMAKE_CXX_STANDARD_REQUIRED ON)
  penstock_kernel_objects("" objects)
  penstock_device_module(_cuda penstock_cuda13 0 $<TARGET_OBJECTS:penstock_cuda_objects> ${objects})
  if(SKBUILD)
    install(FILES LICENSE DESTINATION penstock_cuda13)
  endif()
endif()
