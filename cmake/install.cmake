# What is installed: library, headers and what finds them, below a prefix as usual; or, by pip, below the folder of the package,
# where the library is one file without links.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(PENSTOCK_CXX_RUNTIME stdc++)  # what the static library needs
if(APPLE)
  set(PENSTOCK_CXX_RUNTIME c++)
endif()
set(PENSTOCK_INCLUDE ${CMAKE_INSTALL_INCLUDEDIR})
set(PENSTOCK_LIBRARY ${CMAKE_INSTALL_LIBDIR})
set(PENSTOCK_CONFIG ${CMAKE_INSTALL_LIBDIR}/cmake/penstock)
set(PENSTOCK_STATIC ${CMAKE_INSTALL_LIBDIR}/${CMAKE_STATIC_LIBRARY_PREFIX}penstock${CMAKE_STATIC_LIBRARY_SUFFIX})
set(PENSTOCK_SUFFIX ${PROJECT_VERSION})
if(PENSTOCK_MODULE)
  set(PENSTOCK_INCLUDE penstock/include)
  set(PENSTOCK_LIBRARY penstock)
  set(PENSTOCK_CONFIG penstock/cmake)
  set(PENSTOCK_STATIC "")
  set(PENSTOCK_SUFFIX 0)
  install(TARGETS _core LIBRARY DESTINATION penstock)
  install(TARGETS penstock LIBRARY DESTINATION penstock NAMELINK_SKIP)
else()
  install(TARGETS penstock penstock_static
          LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
install(DIRECTORY cpp/include/ DESTINATION ${PENSTOCK_INCLUDE} FILES_MATCHING PATTERN *.h PATTERN *.hpp PATTERN *.f90)

# Paths from the files that find to the prefix, so that an installation can be moved.
function(penstock_to_prefix folder)
  file(RELATIVE_PATH up /prefix/${folder} /prefix)
  string(REGEX REPLACE "/$" "" up "${up}")
  set(PENSTOCK_TO_PREFIX ${up} PARENT_SCOPE)
endfunction()

if(APPLE)
  set(PENSTOCK_SONAME @rpath/libpenstock.0.dylib)
  set(PENSTOCK_SHARED ${PENSTOCK_LIBRARY}/libpenstock.${PENSTOCK_SUFFIX}.dylib)
else()
  set(PENSTOCK_SONAME libpenstock.so.0)
  set(PENSTOCK_SHARED ${PENSTOCK_LIBRARY}/libpenstock.so.${PENSTOCK_SUFFIX})
endif()
penstock_to_prefix(${PENSTOCK_CONFIG})
configure_file(cmake/penstockConfig.cmake.in generated/penstockConfig.cmake @ONLY)
# Before version 1 a minor version may change what programs are written against.
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/generated/penstockConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/generated/penstockConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/generated/penstockConfigVersion.cmake
        DESTINATION ${PENSTOCK_CONFIG})
if(NOT PENSTOCK_MODULE)
  penstock_to_prefix(${CMAKE_INSTALL_LIBDIR}/pkgconfig)
  configure_file(cmake/penstock.pc.in generated/penstock.pc @ONLY)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/generated/penstock.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endif()
