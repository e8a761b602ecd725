#include "registry/lists.h"

namespace dropin {

void register_data(Registry&) {}

}  // namespace dropin
