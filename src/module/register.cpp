#include "dropin/module/dropout.h"
#include "registry/lists.h"

namespace dropin {

void register_module(Registry& r) { r.add<Dropout>(); }

}  // namespace dropin
