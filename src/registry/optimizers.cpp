#include "registry/lists.h"

namespace dropin {

void register_optimizers(Registry& r) {
  r.add<SGD>();
  r.add<Adam>();
  r.add<AdamW>();
}

}  // namespace dropin
