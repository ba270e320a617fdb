# fm_embed(<out list> <symbol> <file>...)
#
# Makes a C source that holds the files, one after the other, as `const char <symbol>[]`, ended by a 0 byte that is not
# theirs; adds it to the list. It is made anew when a file changes.
function(fm_embed out symbol)
  set(source ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.c)
  list(TRANSFORM ARGN PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/ REGEX "^[^/]")
  add_custom_command(OUTPUT ${source}
    COMMAND ${CMAKE_COMMAND} "-DSYMBOL=${symbol}" "-DOUTPUT=${source}" "-DFILES=${ARGN}"
      -P ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
    DEPENDS ${ARGN} ${PROJECT_SOURCE_DIR}/cmake/embed.cmake VERBATIM)
  set(${out} ${${out}} ${source} PARENT_SCOPE)
endfunction()
