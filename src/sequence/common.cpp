#include "dropin/sequence/common.h"

#include <limits>

#include "dropin/module/init.h"
#include "dropin/module/state_names.h"

namespace dropin {

void detail::init_attention(const Child<Linear>& q, const Child<Linear>& k, const Child<Linear>& v,
                            const Child<Linear>& out, bool packed) {
  no_grad guard;
  for (auto* p : {&q, &k, &v}) {
    Tensor& w = p->as()->weight();
    const int64_t fan_in = w.size(1), fan_out = packed ? 3 * w.size(0) : w.size(0);
    w.copy_(init::xavier_uniform(w.sizes(), fan_in, fan_out));
  }
  for (auto* p : {&q, &k, &v, &out})
    if (p->as()->bias().defined()) p->as()->bias().zero_();
}

void detail::check_heads_options(std::string_view who, int64_t embed_dim, int64_t num_heads,
                                 const std::string& rope, double dropout) {
  DROPIN_CHECK(embed_dim > 0 && num_heads > 0, OptionError, who, ": embed_dim ", embed_dim,
               " and num_heads ", num_heads, " must be positive");
  DROPIN_CHECK(embed_dim % num_heads == 0, OptionError, who, ": embed_dim ", embed_dim,
               " is not divisible by num_heads ", num_heads);
  DROPIN_CHECK(rope == "none" || rope == "half" || rope == "interleaved", OptionError, who,
               ": rope is \"", rope, "\", expected none, half or interleaved");
  DROPIN_CHECK(rope == "none" || embed_dim / num_heads % 2 == 0, OptionError, who,
               ": rope turns pairs, but the head width embed_dim / num_heads = ",
               embed_dim / num_heads, " is odd");
  DROPIN_CHECK(dropout >= 0 && dropout < 1, OptionError, who, ": dropout is ", dropout,
               ", expected 0 <= dropout < 1");
}

void detail::check_attention_inputs(std::string_view who, const Tensor& query, const Tensor& key,
                                    const Tensor& value, int64_t embed_dim, int64_t kdim,
                                    int64_t vdim) {
  DROPIN_CHECK(query.dim() == 3 && query.size(2) == embed_dim, ShapeError, who, ": ",
               query.is_same(key) ? "x" : "query", " is ", query.sizes(), ", expected [B, L, ",
               embed_dim, "] because embed_dim = ", embed_dim);
  DROPIN_CHECK(key.dim() == 3 && key.size(2) == kdim && key.size(0) == query.size(0), ShapeError,
               who, ": key is ", key.sizes(), ", expected [", query.size(0), ", L, ", kdim, "]");
  DROPIN_CHECK(value.dim() == 3 && value.size(2) == vdim && value.size(0) == query.size(0) &&
                   value.size(1) == key.size(1),
               ShapeError, who, ": value is ", value.sizes(), ", expected [", query.size(0), ", ",
               key.size(1), ", ", vdim, "]");
}

Tensor detail::check_attn_mask(std::string_view who, const Tensor& m, int64_t batch, int64_t heads,
                               int64_t lq, int64_t lk) {
  if (!m.defined()) return m;
  const bool flat = m.dim() == 2 && m.size(0) == lq && m.size(1) == lk;
  const bool full = m.dim() == 4 && m.size(0) == batch && (m.size(1) == 1 || m.size(1) == heads) &&
                    m.size(2) == lq && m.size(3) == lk;
  DROPIN_CHECK(flat || full, ShapeError, who, ": attn_mask is ", m.sizes(), ", expected [", lq,
               ", ", lk, "] or [", batch, ", 1 or ", heads, ", ", lq, ", ", lk, "]");
  return m;
}

void detail::check_sequence(std::string_view who, const Tensor& x, int64_t embed_dim,
                            const SequenceArgs& args) {
  DROPIN_CHECK(x.dim() == 3 && x.size(2) == embed_dim, ShapeError, who, ": x is ", x.sizes(),
               ", expected [B, L, ", embed_dim, "] because embed_dim = ", embed_dim);
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who, ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  check_mask(who, "key_padding_mask", args.key_padding_mask, x);
  check_mask(who, "global_attention_mask", args.global_attention_mask, x);
}

void detail::check_mask(std::string_view who, const char* name, const Tensor& m, const Tensor& x) {
  if (!m.defined()) return;
  DROPIN_CHECK(m.dtype() == kBool, DTypeError, who, ": ", name, " is ", m.dtype(),
               ", expected bool");
  DROPIN_CHECK(m.dim() == 2 && m.size(0) == x.size(0) && m.size(1) == x.size(1), ShapeError, who,
               ": ", name, " is ", m.sizes(), ", expected [", x.size(0), ", ", x.size(1), "]");
}

void detail::refuse(std::string_view who, const char* name, const Tensor& given, const char* why) {
  DROPIN_CHECK(!given.defined(), OptionError, who, ": ", name, " is not supported: ", why);
}

Tensor detail::without_padding(const Tensor& heads, const Tensor& pad) {
  return pad.defined() ? masked_fill(heads, pad.reshape({pad.size(0), 1, pad.size(1), 1}), 0)
                       : heads;
}

void ProjectedMixer::add_projections(int64_t d, bool bias, bool out_bias) {
  q_proj_ = child<Linear>("q_proj", {.in_features = d, .out_features = d, .bias = bias});
  k_proj_ = child<Linear>("k_proj", {.in_features = d, .out_features = d, .bias = bias});
  v_proj_ = child<Linear>("v_proj", {.in_features = d, .out_features = d, .bias = bias});
  out_proj_ = child<Linear>("out_proj", {.in_features = d, .out_features = d, .bias = out_bias});
  detail::init_attention(q_proj_, k_proj_, v_proj_, out_proj_, true);
}

void ProjectedMixer::init_projections(Tensor (*init)(const Shape& sizes)) {
  no_grad guard;
  for (auto* p : {&q_proj_, &k_proj_, &v_proj_, &out_proj_}) {
    Tensor& w = p->as()->weight();
    w.copy_(init(w.sizes()));
  }
}

void ProjectedMixer::translate_state(StateDict& state, const std::string& prefix,
                                     std::vector<std::string>& renamed) const {
  detail::translate_in_proj(state, prefix, renamed);
}

void detail::translate_in_proj(StateDict& state, const std::string& prefix,
                               std::vector<std::string>& renamed) {
  for (const char* kind : {"weight", "bias"}) {
    const std::string packed = prefix + "in_proj_" + kind;
    const Tensor t = state.find(packed);
    if (t.defined() && t.dim() >= 1 && t.size(0) % 3 == 0) {
      state.take(packed);
      const int64_t n = t.size(0) / 3;
      int i = 0;
      for (const char* which : {"q_proj.", "k_proj.", "v_proj."})
        state.set(prefix + which + kind, t.narrow(0, n * i++, n));
      renamed.push_back(packed + " -> " + prefix + "{q,k,v}_proj." + kind);
    }
  }
  for (const char* which : {"q_proj", "k_proj", "v_proj"})
    rename_state(state, prefix + which + "_weight", prefix + which + ".weight", renamed);
}

}  // namespace dropin
