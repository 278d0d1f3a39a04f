# SPDX-License-Identifier: Apache-2.0
# Build options.  Optional parts are AUTO (use if found), ON (error if absent)
# or OFF.  OPENMP is for the quantisers alone; the CPU backend has a thread pool
# of its own, which every build contains.
foreach(part CUDA OPENCL OPENMP)
  set(QMOE_${part} AUTO CACHE STRING "Build with ${part}: AUTO, ON or OFF")
  set_property(CACHE QMOE_${part} PROPERTY STRINGS AUTO ON OFF)
  if(NOT QMOE_${part} MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "QMOE_${part} must be AUTO, ON or OFF, not '${QMOE_${part}}'")
  endif()
endforeach()
option(QMOE_CLI "Build the command-line tool" ${PROJECT_IS_TOP_LEVEL})
option(QMOE_TESTS "Build the tests" ${PROJECT_IS_TOP_LEVEL})
option(QMOE_INSTALL "Install rules" ${PROJECT_IS_TOP_LEVEL})
option(QMOE_WERROR "Warnings are errors" OFF)
set(QMOE_SANITIZE "" CACHE STRING "Sanitizers, e.g. address,undefined or thread")
option(BUILD_SHARED_LIBS "Build libqmoe as a shared library" OFF)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
