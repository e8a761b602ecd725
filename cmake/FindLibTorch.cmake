# LibTorch by its headers and libraries: of Debian (libtorch-dev), of the folder that DROPIN_TORCH names, or of the pip torch of python3. Its own CMake files want CUDA where it was
# built with it, and take a minute. Defines LibTorch::LibTorch.
if(NOT IS_DIRECTORY "${DROPIN_TORCH}")
  find_program(DROPIN_PYTHON python3)
  if(DROPIN_PYTHON)
    execute_process(COMMAND ${DROPIN_PYTHON} -c "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '', end='')"
                    OUTPUT_VARIABLE LibTorch_PIP ERROR_QUIET)
  endif()
endif()
find_path(LibTorch_HEADERS torch/torch.h HINTS ${DROPIN_TORCH} ${LibTorch_PIP} PATH_SUFFIXES include/torch/csrc/api/include torch/csrc/api/include)
foreach(name torch_cpu c10)
  find_library(LibTorch_${name} ${name} HINTS ${DROPIN_TORCH} ${LibTorch_PIP} PATH_SUFFIXES lib)
  mark_as_advanced(LibTorch_${name})
endforeach()
mark_as_advanced(LibTorch_HEADERS)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch REQUIRED_VARS LibTorch_torch_cpu LibTorch_c10 LibTorch_HEADERS
                                  REASON_FAILURE_MESSAGE "install libtorch-dev, or name a LibTorch with -DDROPIN_TORCH=.../site-packages/torch")
if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  get_filename_component(root ${LibTorch_HEADERS}/../../../.. ABSOLUTE)
  target_include_directories(LibTorch::LibTorch SYSTEM INTERFACE ${root} ${LibTorch_HEADERS})
  target_link_libraries(LibTorch::LibTorch INTERFACE ${LibTorch_torch_cpu} ${LibTorch_c10})
  # a pip torch may name libraries that only its Python side finds; what is not called is not needed
  target_link_options(LibTorch::LibTorch INTERFACE -Wl,--unresolved-symbols=ignore-in-shared-libs)
endif()
