#include "dropin/sequence/lookhere_attention.h"

#include <limits>

#include "dropin/module/init.h"
#include "sequence/query_parts.h"

namespace dropin {

std::vector<std::string> LookHereAttention::examples() {
  return {R"({"head_directions": "triangles", "prefix_tokens": 2, "fill_with": "max"})",
          R"({"head_directions": "center", "distance": "sqrt", "bias": false})"};
}

Sample LookHereAttention::sample(const Options& o, const SampleSpec& s) {
  const int64_t batch = s.batch >= 0 ? s.batch : (s.size ? 1 : 2);
  return {{{"x", s.normal({batch, o.prefix_tokens + o.grid[0] * o.grid[1], o.embed_dim})}}};
}

LookHereAttention::LookHereAttention(const LookHereAttentionOptions& o) : Component(o) {
  detail::check_heads_options(who(), o.embed_dim, o.num_heads, "none", 0);
  table_ = detail::LookHereTable(who(), o);
  add_projections(o.embed_dim, o.bias, o.bias);
  init_projections([](const Shape& sizes) { return init::trunc_normal(sizes, 0.02); });
}

void LookHereAttention::set_grid(int64_t height, int64_t width, double slope) {
  LookHereAttentionOptions o = options_;
  o.grid = {height, width};
  o.slope = slope;
  table_ = detail::LookHereTable(who(), o);
  options_ = o;
}

Tensor LookHereAttention::forward(const Tensor& x, const SequenceArgs& args) {
  const auto& o = options_;
  detail::check_sequence(who(), x, o.embed_dim, args);
  const char* why = "the table of the grid says who sees whom";
  detail::refuse(who(), "key_padding_mask", args.key_padding_mask, why);
  detail::refuse(who(), "attn_mask", args.attn_mask, why);
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask, why);
  const int64_t n = table_.tokens();
  DROPIN_CHECK(x.size(1) == n, ShapeError, who(), ": x is ", x.sizes(), ", expected [B, ", n, ", ",
               o.embed_dim, "] because grid = [", o.grid[0], ", ", o.grid[1],
               "] and prefix_tokens = ", o.prefix_tokens);
  const detail::LookHereTable::Ordered& tiles = table_.ordered();
  const bool tiled = x.device().is_cpu() && x.dtype() != kFloat64;
  const Tensor tokens = tiled ? index_select(x, 1, tiles.order) : x;
  const Tensor q = split_heads(q_proj_(tokens), o.num_heads),
               k = split_heads(k_proj_(tokens), o.num_heads),
               v = split_heads(v_proj_(tokens), o.num_heads);
  if (!tiled) return out_proj_(merge_heads(attend(q, k, v)));
  AttentionParams p;
  p.attn_mask = tiles.keyed;
  p.grid_bias = tiles.bias;
  p.grid_places = tiles.places;
  return index_select(out_proj_(merge_heads(attention(q, k, v, p))), 1, tiles.back);
}

Tensor LookHereAttention::attend(const Tensor& q, const Tensor& k, const Tensor& v) const {
  const int64_t n = table_.tokens();
  const DType wide = q.dtype() == kFloat64 ? kFloat64 : kFloat32;
  return detail::in_query_parts(
      n, options_.num_heads * n, {q, k, v},
      [table = table_, wide](const Tensors& in, const detail::QueryPart& part) {
        const Tensor costs = table.rows(part.first, part.count),
                     seen = where(costs <= -1e38, -std::numeric_limits<double>::infinity(), costs);
        return attention(in[0].narrow(2, part.first, part.count), in[1], in[2],
                         {.attn_mask = seen.to(wide).to(in[0].device()).unsqueeze(0)});
      });
}

void LookHereAttention::translate_state(StateDict& state, const std::string& prefix,
                                        std::vector<std::string>& renamed) const {
  for (const char* kind : {"weight", "bias"}) {  // the official code's names
    detail::rename_state(state, prefix + "qkv." + kind, prefix + "in_proj_" + kind, renamed);
    detail::rename_state(state, prefix + "proj." + kind, prefix + "out_proj." + kind, renamed);
  }
  ProjectedMixer::translate_state(state, prefix, renamed);
}

}  // namespace dropin
