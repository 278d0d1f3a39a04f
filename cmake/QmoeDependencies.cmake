# SPDX-License-Identifier: Apache-2.0
# Libraries found on the system; nothing is downloaded.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(CJSON REQUIRED IMPORTED_TARGET libcjson)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(OPENBLAS REQUIRED IMPORTED_TARGET openblas)

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
