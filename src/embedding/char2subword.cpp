#include "dropin/embedding/char2subword.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dropin {

namespace {
void xavier(Linear& l) {
  no_grad guard;
  Tensor& w = l.weight();
  w.copy_(init::xavier_uniform(w.sizes(), w.size(1), w.size(0)));
  l.bias().zero_();
}
}  // namespace

CharEncoderLayer::CharEncoderLayer(const CharEncoderLayerOptions& o) : Component(o) {
  self_attn_ = child<MultiheadAttention>(
      "self_attn", {.embed_dim = o.d, .num_heads = o.num_heads, .dropout = o.dropout});
  for (auto& [name, m] : self_attn_.as()->children()) xavier(dynamic_cast<Linear&>(*m));
  linear1_ = child<Linear>("linear1", {.in_features = o.d, .out_features = o.ff_dim});
  linear2_ = child<Linear>("linear2", {.in_features = o.ff_dim, .out_features = o.d});
  xavier(*linear1_.as());
  xavier(*linear2_.as());
  norm1_ = child<LayerNorm>("norm1", {.normalized_shape = {o.d}});
  norm2_ = child<LayerNorm>("norm2", {.normalized_shape = {o.d}});
}

Tensor CharEncoderLayer::forward(const Tensor& h_in, const Tensor& padding) {
  auto dropped = [&](const Tensor& x) { return dropout(x, options_.dropout, is_training()); };
  const Tensor h = norm1_(h_in + dropped(self_attn_(h_in, {.key_padding_mask = padding})));
  return norm2_(h + dropped(linear2_(gelu(linear1_(h)))));
}

std::vector<std::string> Char2Subword::examples() {
  return {
      R"({"pooling": "mean", "output_norm": false, "dropout": 0, "num_layers": 1, "char_dim": 9, "num_heads": 3})",
      R"({"scale_embedding": false, "dropout": 0})"};
}

Sample Char2Subword::sample(const Options& o, const SampleSpec& s) {
  const int64_t batch = s.batch >= 0 ? s.batch : 2, words = s.size ? 64 : 3,
                longest = std::min<int64_t>(o.max_chars, s.size ? 12 : 5);
  Tensor ids = s.integers(o.num_chars - 1, {batch, words, longest}) + 1;
  int64_t* row = ids.data<int64_t>();
  for (int64_t w = 0; w < batch * words; ++w, row += longest)  // of every length
    std::fill(row + (w + 2) % (longest + 1), row + longest, 0);
  return {{{"char_ids", ids}}};
}

Json Char2Subword::options_from(std::string_view, const Json& options, const Json&) {
  Json r = Json::object();
  if (const int64_t width = option_or(options, {"embedding_dim"}, 0)) r.set("embed_dim", width);
  return r;
}

Char2Subword::Char2Subword(const Char2SubwordOptions& o) : Component(o) {
  DROPIN_CHECK(o.num_chars > 1 && o.embed_dim > 0, OptionError, who(), ": num_chars ", o.num_chars,
               " must be more than 1 and embed_dim ", o.embed_dim, " positive");
  detail::check_heads_options(who(), o.char_dim, o.num_heads, "none", o.dropout);
  DROPIN_CHECK(o.num_layers >= 0 && o.ff_dim > 0 && o.max_chars > 0, OptionError, who(),
               ": num_layers ", o.num_layers, " must not be negative, ff_dim ", o.ff_dim,
               " and max_chars ", o.max_chars, " positive");
  DROPIN_CHECK(o.pooling == "max" || o.pooling == "mean", OptionError, who(), ": pooling is \"",
               o.pooling, "\", expected max or mean");
  const int64_t d = o.char_dim;
  Tensor rows = init::normal({o.num_chars, d}, 1 / std::sqrt(static_cast<double>(d)));
  rows.select(0, 0).zero_();
  characters_ = &child<Parameters>("char_embedding").as()->add("weight", rows);
  Parameters& layers = *child<Parameters>("layers").as();
  for (int64_t i = 0; i < o.num_layers; ++i)
    layers_.push_back(layers.child<CharEncoderLayer>(
        std::to_string(i),
        {.d = d, .num_heads = o.num_heads, .ff_dim = o.ff_dim, .dropout = o.dropout}));
  proj_ = child<Linear>("proj", {.in_features = d, .out_features = o.embed_dim});
  xavier(*proj_.as());
  if (o.output_norm) norm_ = child<LayerNorm>("norm", {.normalized_shape = {o.embed_dim}});
}

namespace {
// sin and cos of t / 10000^(2i/d) side by side, [length, d].
Tensor sinusoid(int64_t length, int64_t d) {
  Tensor p = empty({length, d}, kFloat64);
  for (int64_t t = 0; t < length; ++t)
    for (int64_t c = 0; c < d; ++c) {
      const double angle =
          static_cast<double>(t) /
          std::pow(10000.0, static_cast<double>(c / 2 * 2) / static_cast<double>(d));
      p.data<double>()[t * d + c] = c % 2 ? std::cos(angle) : std::sin(angle);
    }
  return p;
}

// Which rows [N, Lc] hold a character; the checks of ids.
Tensor rows_in_use(std::string_view who, const Tensor& ids, int64_t num_chars) {
  const Tensor host = ids.to(Device{}).contiguous();
  const int64_t *row = host.data<int64_t>(), n = host.size(0), length = host.size(1);
  std::vector<int64_t> used;
  for (int64_t i = 0; i < n; ++i, row += length) {
    bool ended = false;
    for (int64_t t = 0; t < length; ++t) {
      DROPIN_CHECK(row[t] >= 0 && row[t] < num_chars, IndexError, who, ": char_ids hold ", row[t],
                   ", expected 0 to ", num_chars - 1);
      DROPIN_CHECK(!ended || row[t] == 0, IndexError, who,
                   ": char_ids have padding (0) before a character, expected it at the end");
      ended = row[t] == 0;
    }
    if (length > 0 && row[0] != 0) used.push_back(i);
  }
  return tensor(used, kInt64).to(ids.device());
}
}  // namespace

Tensor Char2Subword::encoded(const Tensor& ids) {
  const auto& o = options_;
  const double scale = o.scale_embedding ? std::sqrt(static_cast<double>(o.char_dim)) : 1;
  const Tensor rows = embedding(*characters_, ids, 0), padding = ids == int64_t{0};
  Tensor h = rows * scale + sinusoid(ids.size(1), o.char_dim).to(rows.dtype()).to(rows.device());
  for (const auto& layer : layers_) h = layer->forward(h, padding);
  const Tensor hidden = padding.unsqueeze(-1);
  Tensor pooled;
  if (o.pooling == "max") {
    pooled = max(masked_fill(h, hidden, -std::numeric_limits<double>::infinity()), 1).values;
  } else {
    const Tensor count = sum(logical_not(padding).to(h.dtype()), {1}, true);
    pooled = sum(masked_fill(h, hidden, 0), {1}) / count;
  }
  const Tensor y = proj_(pooled);
  return norm_ ? norm_(y) : y;
}

Tensor Char2Subword::forward(const Tensor& char_ids) {
  const auto& o = options_;
  DROPIN_CHECK(is_integral(char_ids.dtype()), DTypeError, who(), ": char_ids are ",
               char_ids.dtype(), ", expected int64");
  DROPIN_CHECK(char_ids.dim() > 0 && char_ids.size(-1) <= o.max_chars, ShapeError, who(),
               ": char_ids are ", char_ids.sizes(),
               ", expected [*, Lc] with Lc at most max_chars = ", o.max_chars);
  Shape sizes = char_ids.sizes();
  sizes[static_cast<int>(char_ids.dim()) - 1] = o.embed_dim;
  int64_t tokens = 1;
  for (int i = 0; i + 1 < static_cast<int>(char_ids.dim()); ++i) tokens *= sizes[i];
  const Tensor ids = char_ids.to(kInt64).reshape({tokens, char_ids.size(-1)}),
               used = rows_in_use(who(), ids, o.num_chars);
  const Tensor none = zeros({tokens, o.embed_dim}, characters_->options());
  if (used.numel() == 0) return none.reshape(sizes);
  return index_add(none, 0, used, encoded(index_select(ids, 0, used))).reshape(sizes);
}

NamedTensors Char2Subword::call(const NamedTensors& in) {
  return {{"y", (*this)(in.get(in.contains("x") ? "x" : "char_ids", who()))}};
}

Tensor Char2Subword::encode(const std::vector<std::string>& words, const CharVocab& vocab) const {
  std::vector<std::vector<int64_t>> rows;
  std::size_t longest = 0;
  for (const std::string& w : words) {
    rows.push_back(vocab.encode(w, options_.max_chars));
    longest = std::max(longest, rows.back().size());
  }
  Tensor ids = zeros({static_cast<int64_t>(words.size()), static_cast<int64_t>(longest)}, kInt64);
  int64_t* at = ids.data<int64_t>();
  for (const auto& row : rows) {
    std::copy(row.begin(), row.end(), at);
    at += longest;
  }
  return ids.to(characters_->device());
}

Tensor Char2Subword::still(const std::vector<std::string>& words, const CharVocab& vocab) {
  no_grad guard;
  const bool training = is_training();
  auto kept = std::move(cache_);  // train() would drop it
  if (training) eval();
  const Tensor y = forward(encode(words, vocab));
  if (training) train();
  cache_ = std::move(kept);
  return y;
}

void Char2Subword::build_cache(const std::vector<std::string>& words, const CharVocab& vocab) {
  const Tensor y = still(words, vocab);
  for (std::size_t i = 0; i < words.size(); ++i) cache_[words[i]] = y[static_cast<int64_t>(i)];
}

Tensor Char2Subword::lookup(const std::vector<std::string>& words, const CharVocab& vocab) {
  no_grad guard;
  std::vector<std::string> fresh;
  for (const std::string& w : words)
    if (!cache_.count(w)) fresh.push_back(w);
  const Tensor computed = fresh.empty() ? Tensor() : still(fresh, vocab);
  Tensors rows;
  int64_t next = 0;
  for (const std::string& w : words) {
    const auto found = cache_.find(w);
    rows.push_back(found == cache_.end() ? computed[next++] : found->second);
  }
  return rows.empty() ? zeros({0, options_.embed_dim}, characters_->options()) : stack(rows, 0);
}

Box<Embedding> Char2Subword::to_embedding(const std::vector<std::string>& words,
                                          const CharVocab& vocab) {
  const Tensor y = lookup(words, vocab);
  auto e = Box<Embedding>(
      new Embedding({.num_embeddings = y.size(0), .embedding_dim = options_.embed_dim}));
  e->to(y.dtype());
  e->to(y.device());
  {
    no_grad guard;
    e->weight().copy_(y);
  }
  e->requires_grad_(false);
  return e;
}

}  // namespace dropin
