# SPDX-License-Identifier: Apache-2.0
# Libraries found on the system; nothing is downloaded.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(CJSON REQUIRED IMPORTED_TARGET libcjson)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(OPENBLAS REQUIRED IMPORTED_TARGET openblas)

# OpenMP: threads of the program that embeds us (core/base/team.h).  What is
# installed names its library without a path: gcc finds libgomp, clang is to be
# told where libomp is.
set(QMOE_HAVE_OPENMP OFF)
set(QMOE_OPENMP_NAMES "")
set(QMOE_OPENMP_LIBS "")
if(NOT QMOE_OPENMP STREQUAL "OFF")
  find_package(OpenMP QUIET COMPONENTS C)
  if(OpenMP_C_FOUND)
    set(QMOE_HAVE_OPENMP ON)
    set(QMOE_OPENMP_NAMES ${OpenMP_C_LIB_NAMES})
    list(REMOVE_ITEM QMOE_OPENMP_NAMES pthread)
    foreach(name ${QMOE_OPENMP_NAMES})
      list(APPEND QMOE_OPENMP_LIBS
        $<BUILD_INTERFACE:${OpenMP_${name}_LIBRARY}> $<INSTALL_INTERFACE:${name}>)
    endforeach()
  elseif(QMOE_OPENMP STREQUAL "ON")
    message(FATAL_ERROR "QMOE_OPENMP=ON but the C compiler finds no OpenMP (clang: libomp-dev)")
  endif()
endif()

# OpenCL: the headers; the loader is looked for when the program runs.
set(QMOE_HAVE_OPENCL OFF)
set(QMOE_HAVE_CLBLAST OFF)
if(NOT QMOE_OPENCL STREQUAL "OFF")
  find_path(QMOE_OPENCL_INCLUDE_DIR CL/cl.h)
  mark_as_advanced(QMOE_OPENCL_INCLUDE_DIR)
  if(QMOE_OPENCL_INCLUDE_DIR)
    set(QMOE_HAVE_OPENCL ON)
    # Dense products of many tokens; the library is looked for at run time.
    find_path(QMOE_CLBLAST_INCLUDE_DIR clblast_c.h)
    mark_as_advanced(QMOE_CLBLAST_INCLUDE_DIR)
    if(QMOE_CLBLAST_INCLUDE_DIR)
      set(QMOE_HAVE_CLBLAST ON)
    endif()
  elseif(QMOE_OPENCL STREQUAL "ON")
    message(FATAL_ERROR "QMOE_OPENCL=ON but CL/cl.h is not found (opencl-c-headers)")
  endif()
endif()

# CUDA: the compiler; the driver is looked for when the program runs.
set(QMOE_HAVE_CUDA OFF)
if(NOT QMOE_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(QMOE_HAVE_CUDA ON)
  elseif(QMOE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "QMOE_CUDA=ON but nvcc is not found (CUDACXX or PATH names it)")
  endif()
endif()
