# SPDX-License-Identifier: Apache-2.0
message(STATUS "qmoe ${PROJECT_VERSION}: ${CMAKE_BUILD_TYPE}, OpenMP ${QMOE_HAVE_OPENMP}, OpenCL ${QMOE_HAVE_OPENCL} (CLBlast ${QMOE_HAVE_CLBLAST}), sanitizers '${QMOE_SANITIZE}'")
