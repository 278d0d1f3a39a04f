# SPDX-License-Identifier: Apache-2.0
# Libraries found on the system; nothing is downloaded.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(CJSON REQUIRED IMPORTED_TARGET libcjson)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(OPENBLAS REQUIRED IMPORTED_TARGET openblas)

set(QMOE_HAVE_OPENMP OFF)
if(NOT QMOE_OPENMP STREQUAL "OFF")
  find_package(OpenMP COMPONENTS C)
  if(OpenMP_C_FOUND)
    set(QMOE_HAVE_OPENMP ON)
  elseif(QMOE_OPENMP STREQUAL "ON")
    message(FATAL_ERROR "QMOE_OPENMP=ON but the C compiler has no OpenMP")
  endif()
endif()

# OpenCL: the headers; the loader is looked for when the program runs.
set(QMOE_HAVE_OPENCL OFF)
if(NOT QMOE_OPENCL STREQUAL "OFF")
  find_path(QMOE_OPENCL_INCLUDE_DIR CL/cl.h)
  mark_as_advanced(QMOE_OPENCL_INCLUDE_DIR)
  if(QMOE_OPENCL_INCLUDE_DIR)
    set(QMOE_HAVE_OPENCL ON)
  elseif(QMOE_OPENCL STREQUAL "ON")
    message(FATAL_ERROR "QMOE_OPENCL=ON but CL/cl.h is not found (opencl-c-headers)")
  endif()
endif()

if(QMOE_CUDA STREQUAL "ON")
  message(FATAL_ERROR "QMOE_CUDA=ON but this version has no CUDA backend yet")
endif()
