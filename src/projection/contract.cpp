#include "dropin/projection/contract.h"

namespace dropin {

FamilyInfo Projection::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "x [*, in] -> y [*, out]";
  f.options = [](int size) {
    return size ? json_of({{"in_features", 512}, {"out_features", 512}})
                : json_of({{"in_features", 8}, {"out_features", 6}});
  };
  f.inputs = [](const Json& o, const SampleSpec& s) {
    return sample_rows(s, option_or(o, {"in_features"}, 512));
  };
  f.bad_inputs = bad_shape({2, 5});
  return f;
}

FamilyInfo MatrixProduct::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "a [.., M, K], b [.., K, N] -> y [.., M, N]";
  f.inputs = [](const Json&, const SampleSpec& s) {
    const int64_t n = s.size ? 512 : 8;
    SampleSpec other = s;
    other.seed = s.seed + 1;
    return Sample{{{"a", sample_rows(s, n).inputs.find("x")}, {"b", other.normal({n, n})}}, {"b"}};
  };
  f.bad_inputs = [](const Json&) -> std::vector<BadInput> {
    return {{{{"a", zeros({2, 5})}, {"b", zeros({4, 2})}}}};
  };
  f.work = [](const Workload& w) {  // b is square, and no parameter
    const double k = static_cast<double>(w.x.size(-1)), n = static_cast<double>(w.x.numel());
    Work r = work_of_places(w, 0);
    r.flops = 2 * n * k;
    r.both_flops = 3 * r.flops;
    return r;
  };
  f.peer_sizes = 0;
  return f;
}

}  // namespace dropin
