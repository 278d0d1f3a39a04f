# SPDX-License-Identifier: Apache-2.0
# cmake -D SOURCE=DIR -D OUTPUT=FILE -P QmoeCommit.cmake: writes the header
# with the commit of the tree SOURCE, only when it changed, so that one file is
# compiled again.  "unknown" when SOURCE is no git work tree of its own.
set(commit "unknown")
find_program(git git)
if(git)
  execute_process(COMMAND ${git} -C ${SOURCE} rev-parse --show-cdup
    OUTPUT_VARIABLE up RESULT_VARIABLE failed ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(failed EQUAL 0 AND up STREQUAL "")
    execute_process(COMMAND ${git} -C ${SOURCE} describe --always --dirty --abbrev=12 --exclude=*
      OUTPUT_VARIABLE text RESULT_VARIABLE failed ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(failed EQUAL 0 AND text MATCHES "^[0-9a-f]+(-dirty)?$")
      set(commit ${text})
    endif()
  endif()
endif()
set(content "/* Written by cmake/QmoeCommit.cmake. */\n#define QMOE_COMMIT \"${commit}\"\n")
set(old "")
if(EXISTS ${OUTPUT})
  file(READ ${OUTPUT} old)
endif()
if(NOT old STREQUAL content)
  file(WRITE ${OUTPUT} "${content}")
endif()
