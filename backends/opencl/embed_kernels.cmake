# SPDX-License-Identifier: Apache-2.0
# cmake -D OUTPUT=<file.c> -D PRELUDE=<c.h> -D KERNELS=<a.cl;b.cl> -P embed_kernels.cmake:
# writes each kernel file as a NUL-terminated array qocl_source_<name>; the prelude,
# which C shares, goes before what all kernels share.
file(READ ${PRELUDE} prelude HEX)
set(text "/* Written by embed_kernels.cmake. */\n#include \"sources.h\"\n")
foreach(kernel ${KERNELS})
  get_filename_component(name ${kernel} NAME_WE)
  file(READ ${kernel} bytes HEX)
  if(name STREQUAL "common")
    string(PREPEND bytes ${prelude})
  endif()
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
  string(REGEX REPLACE "((0x..,)(0x..,)(0x..,)(0x..,)(0x..,)(0x..,)(0x..,)(0x..,))"
         "\\1\n" bytes "${bytes}")
  string(APPEND text "const char qocl_source_${name}[] = {\n${bytes}0};\n")
endforeach()
file(WRITE ${OUTPUT} "${text}")
