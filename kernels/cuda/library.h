// NVIDIA's libraries, opened when first needed: the first file of a list that loads, and its
// functions by name.
#pragma once
#include <dlfcn.h>

#include <initializer_list>
#include <type_traits>

namespace dropin::kernels::cuda {

class OpenedLibrary {
 public:
  explicit OpenedLibrary(std::initializer_list<const char*> names) {
    for (const char* name : names)
      if ((module_ = dlopen(name, RTLD_NOW | RTLD_LOCAL))) break;
    there = module_ != nullptr;
  }
  /// False when no file loaded, or a function asked for is not in it.
  bool there = false;

 protected:
  template <class F>
  void find(F& f, const char* name) {
    if (!module_) return;
    f = reinterpret_cast<F>(dlsym(module_, name));
    there = there && f;
  }

 private:
  void* module_ = nullptr;
};

}  // namespace dropin::kernels::cuda
