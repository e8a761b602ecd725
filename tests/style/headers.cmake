# Being included: dropin/dropin.h without a warning under strict flags, in C++20 and 23, after the macros of X11, Windows, Qt and glog,
# by every compiler given; and what cannot work is refused in one line.
# cmake -DROOT=<source folder> -DWORK=<scratch folder> -DCOMPILERS=g++,clang++ -P headers.cmake
cmake_minimum_required(VERSION 3.22)
file(MAKE_DIRECTORY ${WORK})
file(WRITE ${WORK}/plain.cpp "#include <dropin/dropin.h>\nint main() { return dropin::ones({2}).numel() == 2 ? 0 : 1; }\n")
set(macros "#include <bits/stdc++.h>\n#include <sys/mman.h>\n")
set(words "min(a, b) (((a) < (b)) ? (a) : (b))" "max(a, b) (((a) > (b)) ? (a) : (b))"  # Windows
              "near" "far" "small char" "IN" "OUT" "interface struct" "ERROR 0" "GetObject GetObjectA"
              "None 0L" "Bool int" "Status int" "True 1" "False 0" "Success 0" "Always 2" "Unsorted 0" "CurrentTime 0L"  # X11
              "signals public" "slots" "emit" "foreach(a, b) for (a : b)" "forever while (true)" "Q_OBJECT"  # Qt
              "CHECK(c) (void)(c)" "CHECK_EQ(a, b) (void)((a) == (b))" "LOG(x) (void)0" "DCHECK(c) (void)(c)")  # glog
foreach(macro IN LISTS words)
  string(APPEND macros "#define ${macro}\n")
endforeach()
file(WRITE ${WORK}/macros.cpp "${macros}#include <dropin/dropin.h>\nint main() { return 0; }\n")
set(strict -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror)

function(compile expected compiler)
  execute_process(COMMAND ${compiler} -I${ROOT}/include -fsyntax-only ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(expected STREQUAL "" AND NOT code EQUAL 0)
    string(SUBSTRING "${out}" 0 3000 out)
    message(SEND_ERROR "${compiler} ${ARGN}\n${out}")
  elseif(NOT expected STREQUAL "" AND (code EQUAL 0 OR NOT out MATCHES "${expected}"))
    string(SUBSTRING "${out}" 0 1000 out)
    message(SEND_ERROR "${compiler} ${ARGN}: is not refused with \"${expected}\"\n${out}")
  endif()
endfunction()

string(REPLACE "," ";" COMPILERS "${COMPILERS}")
foreach(compiler IN LISTS COMPILERS)
  set(newest c++23)
  if(compiler MATCHES "clang")
    set(newest c++2b)
  endif()
  compile("" ${compiler} -std=c++20 ${strict} ${WORK}/plain.cpp)
  compile("" ${compiler} -std=${newest} ${strict} ${WORK}/plain.cpp)
  compile("" ${compiler} -std=c++20 ${WORK}/macros.cpp)
  compile("_GLIBCXX_DEBUG changes the layout" ${compiler} -std=c++20 -D_GLIBCXX_DEBUG ${WORK}/plain.cpp)
  compile("gives another std::string" ${compiler} -std=c++20 -D_GLIBCXX_USE_CXX11_ABI=0 ${WORK}/plain.cpp)
  compile("needs C\\+\\+20" ${compiler} -std=c++17 ${WORK}/plain.cpp)
endforeach()
