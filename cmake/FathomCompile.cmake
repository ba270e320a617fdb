# The dialect, the warnings and the sanitizers that every target of the project is built with.
set(CMAKE_C_STANDARD 17)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_C_VISIBILITY_PRESET hidden) # only what a public header marks FM_API leaves a shared library
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -g")
set(CMAKE_C_FLAGS_DEBUG "-O1 -g -fno-omit-frame-pointer")

option(FM_WERROR "warnings are errors" OFF)
option(FM_FUZZ "build the libFuzzer targets (clang)" OFF)
set(FM_SANITIZE "" CACHE STRING "list for -fsanitize=, e.g. address,undefined or thread")

# -ffp-contract=off: a product and a sum are fused only where the source says fma(), so that every compiler and every
# ISA level computes the same bits.
add_compile_options(-ffp-contract=off -fno-math-errno)
# Names in debug information and messages are relative to the tree, so that what is installed tells nothing of where it was
# built.
add_compile_options(-ffile-prefix-map=${PROJECT_SOURCE_DIR}/=)
add_compile_definitions(_GNU_SOURCE _FILE_OFFSET_BITS=64)
set(FM_WARNINGS
    -Wall -Wextra -Wshadow -Wundef -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition
    -Wpointer-arith -Wwrite-strings -Wformat=2 -Wcast-qual -Wunused -Wnull-dereference -Wdouble-promotion)
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
  # gcc's null-dereference analysis reports paths through inlined libc code at -O2. Messages are cut by snprintf on
  # purpose, so format-truncation only finds what is meant.
  list(REMOVE_ITEM FM_WARNINGS -Wnull-dereference)
  list(APPEND FM_WARNINGS -Wlogical-op -Wduplicated-cond -Wno-format-truncation)
endif()
if(FM_WERROR)
  list(APPEND FM_WARNINGS -Werror)
endif()
add_compile_options("$<$<COMPILE_LANGUAGE:C>:${FM_WARNINGS}>")

if(FM_SANITIZE)
  add_compile_options(-fsanitize=${FM_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${FM_SANITIZE})
  # The sanitizers take over __cxa_throw when a program starts, and end it when a C++ library that was opened later, such as
  # DuckDB, throws: so the C++ runtime has to be there from the start.
  add_link_options(LINKER:--push-state,--no-as-needed -lstdc++ LINKER:--pop-state)
  if(FM_SANITIZE MATCHES undefined)
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
endif()
if(FM_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

set(FM_X86 OFF)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  set(FM_X86 ON)
endif()
# A source named *_avx2.c, *_avx512.c or *_amx.c is compiled with that level's flags, and only such a source is.
set(FM_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(FM_ISA_FLAGS_avx512 ${FM_ISA_FLAGS_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl)
set(FM_ISA_FLAGS_amx ${FM_ISA_FLAGS_avx512} -mavx512bf16 -mamx-tile -mamx-bf16 -mamx-int8)
