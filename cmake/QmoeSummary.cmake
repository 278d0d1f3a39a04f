# SPDX-License-Identifier: Apache-2.0
message(STATUS "qmoe ${PROJECT_VERSION}: ${CMAKE_BUILD_TYPE}, OpenCL ${QMOE_HAVE_OPENCL} (CLBlast ${QMOE_HAVE_CLBLAST}), CUDA ${QMOE_HAVE_CUDA}, sanitizers '${QMOE_SANITIZE}'")
