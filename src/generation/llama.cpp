#include "dropin/generation/llama.h"

#include <algorithm>

#include "dropin/generation/draft_tree.h"
#include "generation/states.h"
#include "kernels/hd.h"

namespace dropin {

namespace {

constexpr int64_t kCacheStep = 64;  // columns that a cache grows by

void check_llama(std::string_view who, const LlamaOptions& o) {
  DROPIN_CHECK(o.embed_dim > 0 && o.mlp_dim > 0 && o.num_layers > 0 && o.num_heads > 0 &&
                   o.num_kv_heads > 0 && o.max_len >= 0,
               OptionError, who, ": embed_dim ", o.embed_dim, ", mlp_dim ", o.mlp_dim,
               ", num_layers ", o.num_layers, ", num_heads ", o.num_heads, " and num_kv_heads ",
               o.num_kv_heads, " must be positive, max_len ", o.max_len, " at least 0");
  DROPIN_CHECK(o.embed_dim % (2 * o.num_heads) == 0, OptionError, who, ": embed_dim ", o.embed_dim,
               " is not divisible by 2 num_heads = ", 2 * o.num_heads);
  DROPIN_CHECK(o.num_heads % o.num_kv_heads == 0, OptionError, who, ": num_heads ", o.num_heads,
               " is not divisible by num_kv_heads ", o.num_kv_heads);
  DROPIN_CHECK(o.rope_theta > 0 && o.rms_eps >= 0, OptionError, who, ": rope_theta ", o.rope_theta,
               " and rms_eps ", o.rms_eps, ", expected positive numbers");
}

RMSNormOptions norm_options(const LlamaOptions& o) {
  return {.normalized_shape = std::vector<int64_t>{o.embed_dim}, .eps = o.rms_eps};
}
LinearOptions no_bias(int64_t in, int64_t out) {
  return {.in_features = in, .out_features = out, .bias = false};
}

// keys or values with room for `columns`.
void make_room(Tensor& t, int64_t columns) {
  if (t.size(2) >= columns) return;
  const int64_t more = ceil_div(columns, kCacheStep) * kCacheStep - t.size(2);
  t = pad(t, {0, 0, 0, more});
}

}  // namespace

LlamaCache LlamaCache::select(const std::vector<int64_t>& rows) const {
  LlamaCache c;
  const Tensor index = tensor(rows);
  for (const Tensor& k : keys) c.keys.push_back(index_select(k, 0, index.to(k.device())));
  for (const Tensor& v : values) c.values.push_back(index_select(v, 0, index.to(v.device())));
  for (const int64_t r : rows) c.lengths.push_back(lengths[at(r)]);
  return c;
}

void LlamaCache::keep(const std::vector<int64_t>& path) {
  const int64_t n = lengths[0];
  for (const Tensors* list : {&keys, &values})
    for (const Tensor& t : *list)
      for (std::size_t j = 0; j < path.size(); ++j) {
        const auto to = static_cast<int64_t>(j);
        if (path[j] != to) t.narrow(2, n + to, 1).copy_(t.narrow(2, n + path[j], 1));
      }
  lengths[0] = n + static_cast<int64_t>(path.size());
}

// --- a layer

LlamaLayer::LlamaLayer(const LlamaOptions& o) : Component(o) {
  check_llama(who(), o);
  const int64_t d = o.embed_dim, kv = d / o.num_heads * o.num_kv_heads;
  attn_ = child<ModuleDict>("self_attn");
  q_ = attn_->add<Linear>("q_proj", no_bias(d, d));
  k_ = attn_->add<Linear>("k_proj", no_bias(d, kv));
  v_ = attn_->add<Linear>("v_proj", no_bias(d, kv));
  o_ = attn_->add<Linear>("o_proj", no_bias(d, d));
  mlp_ = child<ModuleDict>("mlp");
  gate_ = mlp_->add<Linear>("gate_proj", no_bias(d, o.mlp_dim));
  up_ = mlp_->add<Linear>("up_proj", no_bias(d, o.mlp_dim));
  down_ = mlp_->add<Linear>("down_proj", no_bias(o.mlp_dim, d));
  norm1_ = child<RMSNorm>("input_layernorm", norm_options(o));
  norm2_ = child<RMSNorm>("post_attention_layernorm", norm_options(o));
}

// positions undefined: 0, 1, ...
LlamaLayer::Heads LlamaLayer::heads(const Tensor& x, const Tensor& positions) {
  const Tensor h = norm1_(x);
  const double theta = options_.rope_theta;
  auto turned = [&](const Tensor& t) {
    return positions.defined() ? rope(t, "half", theta, positions) : rope(t, "half", theta);
  };
  return {turned(split_heads(q_(h), options_.num_heads)),
          turned(split_heads(k_(h), options_.num_kv_heads)),
          split_heads(v_(h), options_.num_kv_heads)};
}

Tensor LlamaLayer::after(const Tensor& x, const Tensor& attended) {
  const Tensor y = x + o_(merge_heads(attended));
  const Tensor h = norm2_(y);
  return y + down_(silu(gate_(h)) * up_(h));
}

Tensor LlamaLayer::forward(const Tensor& x, const Tensor& key_padding_mask) {
  const Heads h = heads(x, {});
  AttentionParams p;
  p.causal = true;
  p.key_padding_mask = key_padding_mask;
  return after(x, attention(h.q, h.k, h.v, p));
}

Tensor LlamaLayer::step(const Tensor& x, const Tensor& positions, const Tensor& forbidden,
                        const std::vector<int64_t>& lengths, Tensor& keys, Tensor& values) {
  const Heads h = heads(x, positions);
  const int64_t n = x.size(1), columns = forbidden.size(3);
  make_room(keys, columns);
  make_room(values, columns);
  for (int64_t i = 0; i < x.size(0); ++i) {
    keys[i].narrow(1, lengths[at(i)], n).copy_(h.k[i]);
    values[i].narrow(1, lengths[at(i)], n).copy_(h.v[i]);
  }
  AttentionParams p;
  p.attn_mask = forbidden;
  return after(x, attention(h.q, keys.narrow(2, 0, columns), values.narrow(2, 0, columns), p));
}

// --- the layers

LlamaStack::LlamaStack(const LlamaOptions& o) : Component(o) {
  check_llama(who(), o);
  if (o.vocab_size > 0)
    embed_tokens_ = child<Embedding>(
        "embed_tokens", {.num_embeddings = o.vocab_size, .embedding_dim = o.embed_dim});
  layers_ = child<ModuleList>("layers");
  for (int64_t i = 0; i < o.num_layers; ++i) layers_->append<LlamaLayer>(o);
  norm_ = child<RMSNorm>("norm", norm_options(o));
}

Tensor LlamaStack::forward(const Tensor& x, const Tensor& key_padding_mask) {
  Tensor h = x;
  for (const auto& [name, layer] : layers_->children())
    h = dynamic_cast<LlamaLayer&>(*layer).forward(h, key_padding_mask);
  return norm_(h);
}

LlamaCache LlamaStack::init_cache(int64_t rows) const {
  LlamaCache c;
  const TensorOptions like = parameters()[0].options();
  const int64_t kv = options_.num_kv_heads, d = options_.embed_dim / options_.num_heads;
  for (int64_t i = 0; i < options_.num_layers; ++i) {
    c.keys.push_back(zeros({rows, kv, kCacheStep, d}, like));
    c.values.push_back(zeros({rows, kv, kCacheStep, d}, like));
  }
  c.lengths.assign(at(rows), 0);
  return c;
}

Tensor LlamaStack::step(const Tensor& x, LlamaCache& cache, const LlamaTokens& tokens) {
  const int64_t rows = x.size(0), n = x.size(1);
  int64_t longest = 0;
  for (const int64_t l : cache.lengths) longest = std::max(longest, l);
  Tensor positions = zeros({rows, n}, kInt64), forbidden = ones({rows, 1, n, longest + n}, kBool);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t length = cache.lengths[at(r)];
    for (int64_t i = 0; i < n; ++i) {
      positions.data<int64_t>()[r * n + i] = length + tokens.offset[at(i)];
      bool* row = forbidden.data<bool>() + (r * n + i) * (longest + n);
      std::fill(row, row + length, false);
      for (int64_t j = 0; j < n; ++j)
        row[length + j] = tokens.sees.empty() ? j > i : !tokens.sees[at(i)][at(j)];
    }
  }
  positions = positions.to(x.device());
  forbidden = forbidden.to(x.device());
  Tensor h = x;
  std::size_t i = 0;
  for (const auto& [name, layer] : layers_->children()) {
    h = dynamic_cast<LlamaLayer&>(*layer).step(h, positions, forbidden, cache.lengths,
                                               cache.keys[i], cache.values[i]);
    ++i;
  }
  return norm_(h);
}

}  // namespace dropin
