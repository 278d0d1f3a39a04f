# SPDX-License-Identifier: Apache-2.0
# Installation: headers, libqmoe, the tool, backend modules, a CMake package
# (find_package(qmoe), target qmoe::qmoe) and a pkg-config file.  Nothing
# installed names the prefix, so that the tree can be moved; the one exception
# is the last resort of the module search (core/run/registry.c).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/qmoe)
set(module_dir ${CMAKE_INSTALL_LIBDIR}/qmoe)

set_property(SOURCE ${PROJECT_SOURCE_DIR}/core/run/registry.c
  DIRECTORY ${PROJECT_SOURCE_DIR}/core/run APPEND PROPERTY COMPILE_DEFINITIONS
  QMOE_MODULE_DIR="${module_dir}"
  QMOE_INSTALLED_BACKENDS="${CMAKE_INSTALL_FULL_LIBDIR}/qmoe")

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/qmoe
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(TARGETS qmoe EXPORT qmoe
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(QMOE_CLI)
  file(RELATIVE_PATH bin_to_lib ${CMAKE_INSTALL_FULL_BINDIR}
       ${CMAKE_INSTALL_FULL_LIBDIR})
  set_target_properties(qmoe_cli PROPERTIES INSTALL_RPATH "$ORIGIN/${bin_to_lib}")
  # What `qmoe selftest` runs; it contains the parts it checks.
  install(TARGETS qmoe-check RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(TARGETS qmoe_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
# Each backend module registers its target in this property.
get_property(modules GLOBAL PROPERTY QMOE_BACKEND_MODULES)
install(DIRECTORY DESTINATION ${module_dir})
if(modules)
  install(TARGETS ${modules} LIBRARY DESTINATION ${module_dir})
endif()

# ---- CMake package ----

if(BUILD_SHARED_LIBS)
  set(QMOE_PACKAGE_IS_STATIC OFF)
else()
  set(QMOE_PACKAGE_IS_STATIC ON)
endif()
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/qmoeConfig.cmake.in
  ${PROJECT_BINARY_DIR}/qmoeConfig.cmake
  INSTALL_DESTINATION ${package_dir}
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/qmoeConfigVersion.cmake
  VERSION ${PROJECT_VERSION} COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/qmoeConfig.cmake
  ${PROJECT_BINARY_DIR}/qmoeConfigVersion.cmake DESTINATION ${package_dir})
install(EXPORT qmoe NAMESPACE qmoe:: FILE qmoeTargets.cmake
  DESTINATION ${package_dir})

# ---- pkg-config ----

file(RELATIVE_PATH QMOE_PC_TO_PREFIX
  ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" QMOE_PC_TO_PREFIX "${QMOE_PC_TO_PREFIX}")
file(RELATIVE_PATH QMOE_PC_LIBDIR
  ${CMAKE_INSTALL_PREFIX} ${CMAKE_INSTALL_FULL_LIBDIR})
file(RELATIVE_PATH QMOE_PC_INCLUDEDIR
  ${CMAKE_INSTALL_PREFIX} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
# Libraries without a .pc file of their own: the C++ runtime (the tokenizer is
# C++), OpenMP's and the system's.
set(private_libs stdc++ m ${CMAKE_DL_LIBS} pthread ${QMOE_OPENMP_NAMES})
list(REMOVE_DUPLICATES private_libs)
list(TRANSFORM private_libs PREPEND "-l")
string(JOIN " " QMOE_PC_LIBS_PRIVATE ${private_libs})
configure_file(${CMAKE_CURRENT_LIST_DIR}/qmoe.pc.in
  ${PROJECT_BINARY_DIR}/qmoe.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/qmoe.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
