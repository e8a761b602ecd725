# libdropin_cuda: every kernels/<folder>/cuda*.cu in one module that the library opens when a CUDA device is first named.
# Without an nvcc, or without a kernel for it, the library is complete on the CPU.
file(GLOB DROPIN_CUDA_SOURCES CONFIGURE_DEPENDS kernels/*/cuda*.cu)
if(NOT DROPIN_CUDA_SOURCES)
  return()
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(NOT DROPIN_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "DROPIN_CUDA is ${DROPIN_CUDA}, but there is no CUDA compiler: put nvcc on PATH, or name it by -DCMAKE_CUDA_COMPILER=")
  endif()
  return()
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90)  # and PTX of the last, for newer devices
endif()
enable_language(CUDA)
# Plain data is all that crosses: the module has no undefined symbol of the library and needs none of its compile options.
add_library(dropin_cuda MODULE ${DROPIN_CUDA_SOURCES})
target_include_directories(dropin_cuda PRIVATE include ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(dropin_cuda PRIVATE ${CMAKE_DL_LIBS})
target_compile_definitions(dropin_cuda PRIVATE DROPIN_BUILD_ID="${DROPIN_BUILD_ID}")
# scalar.h and map.h use the standard library's constexpr functions on both sides; random numbers are the CPU's to the last bit only if nothing is fused.
target_compile_options(dropin_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>)
set_property(SOURCE kernels/random/cuda.cu APPEND PROPERTY COMPILE_OPTIONS --fmad=false)
set_target_properties(dropin_cuda PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden
                      VISIBILITY_INLINES_HIDDEN ON LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
