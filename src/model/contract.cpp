#include "dropin/model/contract.h"

namespace dropin {

Sample sample_maps(const SampleSpec& s, int64_t channels, int64_t h, int64_t w) {
  const int64_t side = 64 << ((s.size - 1) / 2);
  const int64_t batch = s.batch >= 0 ? s.batch : s.size == 0 ? 2 : s.size == 1 ? 1 : 8;
  return {{{"x", s.normal({batch, channels, s.size ? side : h, s.size ? side : w})}}};
}

FamilyInfo Model::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "x -> y";
  f.options = [](int size) {  // others are made as they are
    return size ? json_of({{"vocab_size", 256},
                           {"embed_dim", 256},
                           {"num_heads", 4},
                           {"max_len", 16 << (2 * (size - 1))}})
                : json_of({{"vocab_size", 11},
                           {"embed_dim", 8},
                           {"num_heads", 2},
                           {"num_layers", 1},
                           {"max_len", 12}});
  };
  f.inputs = [](const Json& o, const SampleSpec& s) {
    return sample_maps(s, option_or(o, {"in_channels", "channels"}, 3), 8, 8);
  };
  f.bad_inputs = bad_shape({2, 5});
  f.work = [](const Workload& w) { return work_of_places(w, 0); };  // each weight its own places
  f.peer_sizes = 0;
  return f;
}

}  // namespace dropin
