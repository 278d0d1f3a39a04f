# SPDX-License-Identifier: Apache-2.0
# qmoe_add_part(<name> SOURCES ... [DEPENDS ...] [LINKS ...]): one folder of the
# house as an object-only static library.  A part sees the public headers, its
# own folder and the folders of the parts it names in DEPENDS, nothing else:
# the include paths enforce the direction of dependencies.
add_library(qmoe_flags INTERFACE)
target_compile_features(qmoe_flags INTERFACE c_std_11 cxx_std_17)
target_compile_definitions(qmoe_flags INTERFACE _GNU_SOURCE _FILE_OFFSET_BITS=64)
target_compile_options(qmoe_flags INTERFACE
  $<$<COMPILE_LANGUAGE:C>:-Wall;-Wextra;-Wshadow;-Wstrict-prototypes;-Wmissing-prototypes>
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra>
  # Sums must not depend on the compiler's choice of fusing (one result on
  # every machine of an architecture).
  $<$<COMPILE_LANGUAGE:C,CXX>:-ffp-contract=off>)
if(QMOE_WERROR)
  target_compile_options(qmoe_flags INTERFACE $<$<COMPILE_LANGUAGE:C,CXX>:-Werror>)
endif()
if(QMOE_SANITIZE)
  target_compile_options(qmoe_flags INTERFACE
    $<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=${QMOE_SANITIZE};-fno-omit-frame-pointer>
    $<$<COMPILE_LANGUAGE:C,CXX>:-fno-sanitize-recover=all>)
  target_link_options(qmoe_flags INTERFACE -fsanitize=${QMOE_SANITIZE})
endif()

function(qmoe_add_part name)
  cmake_parse_arguments(P "" "" "SOURCES;DEPENDS;LINKS" ${ARGN})
  add_library(${name} STATIC ${P_SOURCES})
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON
    C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden)
  target_include_directories(${name}
    PUBLIC ${CMAKE_CURRENT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
  target_link_libraries(${name} PUBLIC ${P_DEPENDS} ${P_LINKS} $<BUILD_INTERFACE:qmoe_flags>)
endfunction()
