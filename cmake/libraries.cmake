# The two libraries, which are made of the same objects: shared, with what the header declares and what the extension needs, and static.

# GCC's run time goes into what is linked, where its archives are installed: then the C library, its mathematics and threads
# are all that has to be there. The sanitizers want the shared one.
set(PENSTOCK_RUNTIME "")
if(NOT APPLE AND NOT PENSTOCK_SANITIZERS)
  include(CheckCXXSourceCompiles)
  set(CMAKE_REQUIRED_LINK_OPTIONS -static-libstdc++ -static-libgcc)
  check_cxx_source_compiles("#include <string>\nnamespace __gnu_cxx { void __freeres(); }
int main(int n, char **a) { __gnu_cxx::__freeres(); throw std::string(a[n]); }" PENSTOCK_STATIC_RUNTIME)
  unset(CMAKE_REQUIRED_LINK_OPTIONS)
  if(PENSTOCK_STATIC_RUNTIME)
    set(PENSTOCK_RUNTIME -static-libstdc++ -static-libgcc)
  else()
    message(STATUS "There is no static libstdc++: the libraries will need the shared one")
  endif()
endif()

set(PENSTOCK_RUNTIME_SOURCE "")
if(PENSTOCK_RUNTIME)
  set(PENSTOCK_RUNTIME_SOURCE ${CMAKE_CURRENT_SOURCE_DIR}/cpp/c_api/runtime.cpp)
endif()

# The target exports what stands in the version script, and nothing else.
function(penstock_closed target map)
  target_sources(${target} PRIVATE ${PENSTOCK_RUNTIME_SOURCE})
  target_link_options(${target} PRIVATE ${PENSTOCK_LINK_FLAGS} ${PENSTOCK_RUNTIME})
  get_filename_component(map ${map} ABSOLUTE)
  set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS ${map})
  if(APPLE)
    # The same names, one a line, with the underscore that the linker knows them by.
    file(READ ${map} text)
    string(REGEX MATCHALL "\n    [A-Za-z0-9_]+" names "${text}")
    list(TRANSFORM names REPLACE "\n    " "_")
    list(JOIN names "\n" text)
    set(list ${CMAKE_CURRENT_BINARY_DIR}/generated/${target}.exports)
    file(WRITE ${list} "${text}\n")
    target_link_options(${target} PRIVATE -Wl,-dead_strip -Wl,-exported_symbols_list,${list})
  else()
    target_link_options(${target} PRIVATE -Wl,--gc-sections -Wl,--version-script=${map})
    if(NOT PENSTOCK_SANITIZERS)
      target_link_options(${target} PRIVATE $<$<OR:$<CONFIG:Release>,$<CONFIG:MinSizeRel>>:-Wl,-s>)
    endif()
  endif()
endfunction()

add_library(penstock SHARED ${PENSTOCK_OBJECTS})
add_library(penstock::penstock ALIAS penstock)
target_include_directories(penstock INTERFACE $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/cpp/include>)
target_link_libraries(penstock PRIVATE Threads::Threads)
penstock_closed(penstock cpp/c_api/exports.map)
if(NOT APPLE AND NOT PENSTOCK_SANITIZERS)
  target_link_options(penstock PRIVATE -Wl,-z,defs)
endif()
# The number behind .so is PENSTOCK_ABI of the header. A wheel has no links: there the file has the name that programs look for.
set_target_properties(penstock PROPERTIES LINKER_LANGUAGE CXX SOVERSION 0 VERSION ${PROJECT_VERSION})
if(PENSTOCK_MODULE)
  set_target_properties(penstock PROPERTIES VERSION 0)
endif()

add_library(penstock_static STATIC ${PENSTOCK_OBJECTS})
add_library(penstock::static ALIAS penstock_static)
target_include_directories(penstock_static INTERFACE $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/cpp/include>)
target_link_libraries(penstock_static PUBLIC Threads::Threads)
set_target_properties(penstock_static PROPERTIES LINKER_LANGUAGE CXX OUTPUT_NAME penstock)

# The inside of the library, for tests.
add_library(penstock_engine INTERFACE)
target_link_libraries(penstock_engine INTERFACE penstock_static)
target_include_directories(penstock_engine INTERFACE ${CMAKE_CURRENT_SOURCE_DIR}/cpp)
target_compile_definitions(penstock_engine INTERFACE ${PENSTOCK_DEFINITIONS})
target_link_options(penstock_engine INTERFACE ${PENSTOCK_LINK_FLAGS})
