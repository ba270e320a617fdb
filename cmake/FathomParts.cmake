# Optional parts. Each is AUTO (on where it is found), ON (configure fails where it is not) or OFF.
#
#   fm_part(NAME <name> ABOUT <what it is> HINT <what to install> FOUND <value that is true when it is there>)
#
# sets FM_HAVE_<NAME> and a row of the table that ends the configuration. The library that uses a part declares it; the
# options of parts whose library is still to come exist already, so that scripts need not change when it lands.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
set_property(GLOBAL PROPERTY FM_PARTS_TABLE "")

function(fm_part)
  cmake_parse_arguments(P "" "NAME;HINT;ABOUT" "FOUND" ${ARGN})
  set(FM_WITH_${P_NAME} AUTO CACHE STRING "${P_ABOUT}: AUTO, ON or OFF")
  set_property(CACHE FM_WITH_${P_NAME} PROPERTY STRINGS AUTO ON OFF)
  set(have OFF)
  if(NOT FM_WITH_${P_NAME} MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "FM_WITH_${P_NAME} is \"${FM_WITH_${P_NAME}}\"; expected AUTO, ON or OFF")
  elseif(FM_WITH_${P_NAME} STREQUAL "OFF")
    set(why "switched off by FM_WITH_${P_NAME}=OFF")
  elseif(P_FOUND)
    set(have ON)
    set(why "${P_ABOUT}")
  else()
    set(why "not found: ${P_HINT}")
    if(FM_WITH_${P_NAME} STREQUAL "ON")
      message(FATAL_ERROR "FM_WITH_${P_NAME}=ON, but it was not found: ${P_HINT}")
    endif()
  endif()
  set(FM_HAVE_${P_NAME} ${have} PARENT_SCOPE)
  set_property(GLOBAL APPEND PROPERTY FM_PARTS_DECLARED ${P_NAME})
  string(SUBSTRING "${P_NAME}            " 0 12 name)
  string(SUBSTRING "${have}  " 0 4 state)
  set_property(GLOBAL APPEND PROPERTY FM_PARTS_TABLE "  ${name} ${state} ${why}")
endfunction()

# Called last: what no library declared.
function(fm_parts_to_come)
  foreach(part MPI FUSE LMDB POSTGRESQL IO_URING OPENMP)
    get_property(declared GLOBAL PROPERTY FM_PARTS_DECLARED)
    if(NOT part IN_LIST declared)
      fm_part(NAME ${part} ABOUT "for a library that is to come" HINT "no library here uses it yet")
    endif()
  endforeach()
endfunction()

function(fm_parts_report)
  get_property(table GLOBAL PROPERTY FM_PARTS_TABLE)
  list(JOIN table "\n" text)
  message(STATUS "Fathom ${PROJECT_VERSION}, ${CMAKE_BUILD_TYPE}, ${CMAKE_C_COMPILER_ID} ${CMAKE_C_COMPILER_VERSION}. "
                 "Optional parts:\n${text}")
endfunction()
