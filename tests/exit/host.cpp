// Opens the module, runs its model, closes it, three times over.
#include <dlfcn.h>

#include <cstdio>

int main(int, char** argv) {
  for (int i = 0; i < 3; ++i) {
    void* module = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!module) {
      std::fprintf(stderr, "%s\n", dlerror());
      return 2;
    }
    const auto run = reinterpret_cast<int (*)()>(dlsym(module, "run_model"));
    if (!run || run() != 0) return 1;
    dlclose(module);
  }
  std::fprintf(stderr, "closed: fine\n");
  return 0;
}
