#include "dropin/quantizer/vector_quantizer.h"

#include <cmath>

#include "dropin/module/init.h"
#include "dropin/module/state_names.h"
#include "dropin/ops/normalize.h"

namespace dropin {

namespace {

void check_codebook(std::string_view who, int64_t codes, int64_t width, double cost,
                    int64_t channel_dim) {
  DROPIN_CHECK(codes > 0 && width > 0, OptionError, who, ": num_embeddings ", codes,
               " and embedding_dim ", width, " must be positive");
  DROPIN_CHECK(cost >= 0 && std::isfinite(cost), OptionError, who, ": commitment_cost is ", cost,
               ", expected 0 or more");
  DROPIN_CHECK(channel_dim == -1 || channel_dim == 1, OptionError, who, ": channel_dim is ",
               channel_dim, ", expected -1 or 1");
}

// x with D last, and back.
Tensor channels_last(std::string_view who, const Tensor& x, int64_t width, bool second) {
  const bool fits =
      second ? x.dim() >= 3 && x.size(1) == width : x.dim() >= 1 && x.size(-1) == width;
  DROPIN_CHECK(fits, ShapeError, who, ": x is ", x.sizes(), ", expected ",
               second ? "[B, " : "[..., ", width, second ? ", T]" : "]");
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who, ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  if (!second) return x;
  Shape order{0};
  for (int64_t d = 2; d < x.dim(); ++d) order.push_back(d);
  order.push_back(1);
  return x.permute(order);
}
Tensor channels_back(const Tensor& y, bool second) {
  if (!second) return y;
  Shape order{0, y.dim() - 1};
  for (int64_t d = 1; d + 1 < y.dim(); ++d) order.push_back(d);
  return y.permute(order);
}

// The frames of x that count, as a mask over its sizes without D; undefined: all.
Tensor counting_frames(std::string_view who, const Tensor& x, const Tensor& lengths) {
  DROPIN_CHECK(!lengths.defined() || x.dim() == 3, ShapeError, who, ": x is ", x.sizes(),
               ", expected three dimensions with lengths");
  return lengths.defined() ? detail::frames_within(who, lengths, x.size(0), x.size(1)) : Tensor();
}

struct Nearest {
  Tensor indices, codes;
};
Nearest nearest(const Tensor& z, const Tensor& codebook) {
  Shape sizes = z.sizes();
  const int64_t width = sizes.back();
  sizes.erase(sizes.size() - 1);
  const Tensor index = detail::nearest_codes(z.detach().reshape({sizes.numel(), width}), codebook);
  return {index.reshape(sizes), index_select(codebook, 0, index).reshape(z.sizes()).to(z.dtype())};
}

// Mean of (a - b)^2 over the frames that count; 0 when there is none.
Tensor mean_distance(const Tensor& a, const Tensor& b, const Tensor& counts) {
  const Tensor far = square(a - b);
  if (!counts.defined()) return far.numel() ? mean(far) : sum(far);
  const double frames = sum(counts).item();
  return sum(where(counts.unsqueeze(-1), far, 0.0)) *
         (1 / (std::max(frames, 1.0) * static_cast<double>(a.size(-1))));
}

Tensor straight_through(const Tensor& z, const Tensor& codes) {
  return record("straight_through", codes.detach().clone(), {z}, {},
                [](const Saved&, const Tensor& g) -> Tensors { return {g}; });
}

}  // namespace

VectorQuantizer::VectorQuantizer(const VectorQuantizerOptions& o) : Component(o) {
  check_codebook(who(), o.num_embeddings, o.embedding_dim, o.commitment_cost, o.channel_dim);
  codes_ = child<Codebook>(
      "embedding",
      init::uniform({o.num_embeddings, o.embedding_dim}, 1 / static_cast<double>(o.num_embeddings)),
      true);
}

Quantized VectorQuantizer::forward(const Tensor& x, const Tensor& lengths) {
  const bool second = options_.channel_dim == 1;
  const Tensor z = channels_last(who(), x, options_.embedding_dim, second),
               counts = counting_frames(who(), z, lengths);
  const Nearest n = nearest(z, codes_->weight());
  const Tensor loss = mean_distance(n.codes, z.detach(), counts) +
                      mean_distance(n.codes.detach(), z, counts) * options_.commitment_cost;
  return {channels_back(straight_through(z, n.codes), second), loss,
          detail::code_perplexity(n.indices, counts, options_.num_embeddings, x.dtype()),
          n.indices};
}

std::vector<std::string> SegmentalUnitQuantizer::examples() {
  return {R"({"channel_dim": 1, "commitment_cost": 0.5})",
          R"({"normalize": true, "jitter": 0.12, "nonneg_init": true})"};
}

SegmentalUnitQuantizer::SegmentalUnitQuantizer(const SegmentalUnitQuantizerOptions& o)
    : Component(o) {
  check_codebook(who(), o.num_embeddings, o.embedding_dim, o.commitment_cost, o.channel_dim);
  detail::check_moving_average(who(), o.decay, o.eps);
  DROPIN_CHECK(o.init_std >= 0 && o.init_ema_mass > 0, OptionError, who(), ": init_std ",
               o.init_std, " and init_ema_mass ", o.init_ema_mass,
               ", expected 0 or more and a positive number");
  DROPIN_CHECK(o.jitter >= 0 && o.jitter <= 0.5, OptionError, who(), ": jitter is ", o.jitter,
               ", expected 0 to 0.5");
  Tensor start = init::normal({o.num_embeddings, o.embedding_dim}, o.init_std);
  if (o.nonneg_init) start = relu(start);
  codes_ = child<Codebook>("embedding", start, false);
  size_ = &buffer("ema_cluster_size", full({o.num_embeddings}, o.init_ema_mass));
  sum_ = &buffer("ema_w", start * o.init_ema_mass);
}

Tensor SegmentalUnitQuantizer::jittered(const Tensor& y) const {
  if (options_.jitter == 0 || y.dim() != 3 || y.numel() == 0) return y;
  const Shape frames{y.size(0), y.size(1)};
  const Tensor u = rand(frames, kFloat64);
  const Tensor offset = (u >= options_.jitter).to(kInt64) + (u >= 1 - options_.jitter).to(kInt64) -
                        (options_.official_jitter ? 0 : 1);
  const Tensor from = clamp(arange(0, y.size(1)).to(kInt64) + offset, 0, y.size(1) - 1);
  return gather(y, 1, from.to(y.device()).unsqueeze(2).expand(y.sizes()).contiguous());
}

Quantized SegmentalUnitQuantizer::forward(const Tensor& x, const Tensor& lengths) {
  const auto& o = options_;
  const bool second = o.channel_dim == 1;
  const Tensor given = channels_last(who(), x, o.embedding_dim, second),
               counts = counting_frames(who(), given, lengths);
  const Tensor z = o.normalize ? normalize(given, -1) : given;
  const Tensor codebook =
      (o.normalize ? normalize(codes_->weight(), -1) : codes_->weight()).detach();
  const Nearest n = nearest(z, codebook);
  Quantized r;
  r.loss = mean_distance(n.codes, z, counts) * o.commitment_cost;
  r.perplexity = detail::code_perplexity(n.indices, counts, o.num_embeddings, x.dtype());
  r.indices = n.indices;
  r.y = n.codes;
  if (is_training()) {
    r.y = jittered(straight_through(z, n.codes));
    const Tensor rows = z.detach().reshape({n.indices.numel(), o.embedding_dim}),
                 ids = n.indices.reshape({-1});
    const Tensor kept = counts.defined() ? nonzero(counts.reshape({-1})).reshape({-1}) : Tensor();
    frames_ = kept.defined() ? index_select(rows, 0, kept) : rows.clone();
    frame_codes_ = kept.defined() ? index_select(ids, 0, kept) : ids;
  }
  r.y = channels_back(r.y, second);
  return r;
}

void SegmentalUnitQuantizer::ema_update() {
  DROPIN_CHECK(is_training(), StateError, who(), ": ema_update() in evaluation, expected training");
  DROPIN_CHECK(frames_.defined(), StateError, who(),
               ": ema_update() before a forward in training, expected one");
  no_grad guard;
  const VqEma r = vq_ema_update(frames_, frame_codes_, {codes_->weight(), *size_, *sum_},
                                {.decay = options_.decay, .eps = options_.eps});
  codes_->weight().copy_(r.embedding);
  size_->copy_(r.ema_cluster_size);
  sum_->copy_(r.ema_w);
}

int64_t SegmentalUnitQuantizer::reset_dead_codes(double threshold, Generator* g) {
  DROPIN_CHECK(frames_.defined() && frames_.size(0) > 0, StateError, who(),
               ": reset_dead_codes() without frames, expected a forward in training before");
  no_grad guard;
  const std::vector<double> sizes = size_->to_vector();
  int64_t count = 0;
  for (std::size_t k = 0; k < sizes.size(); ++k) {
    if (!(sizes[k] < threshold)) continue;
    const auto code = static_cast<int64_t>(k);
    const int64_t row = randint(0, frames_.size(0), {1}, kInt64, g).item<int64_t>();
    const Tensor frame = frames_.select(0, row);
    codes_->weight().select(0, code).copy_(frame);
    sum_->select(0, code).copy_(frame * options_.init_ema_mass);
    size_->narrow(0, code, 1).fill_(options_.init_ema_mass);
    ++count;
  }
  return count;
}

Units SegmentalUnitQuantizer::units(const Tensor& x, const Tensor& lengths) {
  no_grad guard;
  const Tensor z = channels_last(who(), x, options_.embedding_dim, options_.channel_dim == 1);
  DROPIN_CHECK(z.dim() == 3, ShapeError, who(), ": units: x is ", x.sizes(),
               ", expected three dimensions");
  const bool unit = options_.normalize;
  return run_length_collapse(nearest(unit ? normalize(z, -1) : z,
                                     unit ? normalize(codes_->weight(), -1) : codes_->weight())
                                 .indices,
                             lengths);
}

void SegmentalUnitQuantizer::translate_state(StateDict& state, const std::string& prefix,
                                             std::vector<std::string>& renamed) const {
  for (const char* name : {"embedding.weight", "ema_cluster_size", "ema_w"}) {
    const std::string theirs = prefix + "_" + name, own = prefix + name;
    if (!state.contains(theirs) || state.contains(own)) continue;
    state.set(own, state.take(theirs));
    renamed.push_back(theirs + " -> " + own);
  }
}

}  // namespace dropin
