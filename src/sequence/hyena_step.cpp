// The operator token by token: long convolutions in blocks that double.
#include <bit>

#include "dropin/sequence/common.h"
#include "dropin/sequence/hyena.h"

namespace dropin {
namespace {

constexpr int64_t kBlock = 32;  // tokens whose interaction is summed directly

// What one long convolution keeps: its inputs, and what earlier blocks add to each output to come.
struct Stream {
  Tensor inputs, sums;          // [B, max_len, D]
  Tensor reversed;              // [max_len, D]: the filter, last tap first
  Tensor k, D;                  // [D, max_len], [D]
  std::vector<Tensor> spectra;  // of the first 2^(p+1) taps, made when first needed
};
// The first n tokens x [R, n, D] of a run: their outputs, and in sums what they add to all later
// ones.
Tensor convolve_first(Stream& s, const detail::RowRun& run, const Tensor& x, int64_t max_len) {
  const int64_t n = x.size(1);
  run.of(s.inputs).narrow(1, 0, n).copy_(x);
  const Tensor all = n == max_len ? x : pad(x, {0, 0, 0, max_len - n});
  Tensor sums = run.of(s.sums);
  sums.copy_(fft_conv(all.transpose(1, 2), s.k).transpose(1, 2));
  const Tensor y = sums.narrow(1, 0, n);
  return s.D.defined() ? y + x * s.D : y.clone();
}

// A row's start: the tokens that came at once at first, whose share `sums` holds in full.
struct HyenaState : SequenceState {
  using SequenceState::SequenceState;
  std::vector<Stream> streams;
  detail::RecentTokens recent;  // the last inputs [B, .., (N + 1) D] of the short convolution
  std::vector<detail::StateRow> rows;
  int64_t max_len = 0;
  void parts(auto&& f) {
    for (Stream& s : streams) f(s.inputs), f(s.sums);
    f(recent.data), f(rows);
  }

 protected:
  Box<SequenceState> pick(const std::vector<int64_t>& r) const override {
    return detail::picked(*this, r);
  }
  // What is left becomes the tokens that came at once.
  void take_back(int64_t n, const std::vector<int64_t>& real) override {
    no_grad guard;
    recent.take_back(n, real);
    for (std::size_t b = 0; b < rows.size(); ++b) {
      if (real[b] == 0) continue;
      const int64_t left = rows[b].length - real[b];
      const detail::RowRun run{static_cast<int64_t>(b), 1, left};
      for (Stream& s : streams) {
        if (left)
          convolve_first(s, run, run.fresh_of(s.inputs, 1).clone(), max_len);
        else
          run.of(s.sums).zero_();
      }
      rows[b] = {left, left};
    }
  }
};

// The next token x [R, 1, D] of a run, number t; `origin` tokens came at once before. Tokens of the
// current block are summed one by one.
Tensor convolve_next(Stream& s, const detail::RowRun& run, const Tensor& x, int64_t t,
                     int64_t origin, int64_t max_len) {
  const Tensor inputs = run.of(s.inputs), sums = run.of(s.sums);
  inputs.narrow(1, t, 1).copy_(x);
  const int64_t at = t - origin, begin = t - at % kBlock, count = t + 1 - begin;
  Tensor y =
      sums.narrow(1, t, 1) +
      sum(inputs.narrow(1, begin, count) * s.reversed.narrow(0, max_len - count, count), {1}, true);
  if (s.D.defined()) y = y + x * s.D;
  const int64_t done = at + 1;
  if (done % kBlock != 0 || t + 1 >= max_len) return y;
  // a block of `size` is complete: what it adds to the `size` outputs after it
  const int64_t size = done & -done, reach = std::min(size, max_len - (t + 1)),
                taps = std::min(2 * size, max_len);
  const auto p = static_cast<std::size_t>(std::countr_zero(static_cast<std::uint64_t>(size)));
  if (s.spectra.size() <= p) s.spectra.resize(p + 1);
  const Tensor k = s.k.narrow(1, 0, taps),
               block = pad(inputs.narrow(1, t + 1 - size, size), {0, 0, 0, taps - size});
  if (!s.spectra[p].defined()) s.spectra[p] = fft_conv_spectrum(k, taps);
  const Tensor add =
      fft_conv(block.transpose(1, 2), k, {}, {.spectrum = s.spectra[p]}).transpose(1, 2);
  sums.narrow(1, t + 1, reach).add_(add.narrow(1, size, reach));
  return y;
}

}  // namespace

Box<SequenceState> HyenaOperator::init_state(int64_t batch, int64_t max_len,
                                             const StateOptions& options) {
  const auto& o = options_;
  DROPIN_CHECK(batch >= 0 && max_len >= 1, OptionError, who(), ": init_state(", batch, ", ",
               max_len, "): expected batch >= 0 and max_len >= 1");
  DROPIN_CHECK(max_len <= o.l_max, OptionError, who(), ": init_state: max_len is ", max_len,
               ", expected at most l_max = ", o.l_max);
  detail::check_state_sizes(who(), batch, max_len, options);
  no_grad guard;
  auto s = Box<HyenaState>(new HyenaState(batch));
  const TensorOptions like = short_weight_->options();
  s->max_len = max_len;
  s->rows.resize(static_cast<std::size_t>(batch));
  s->recent = {batch, o.short_filter_order - 1, (o.order + 1) * o.d_model, options, like};
  for (const detail::HyenaTaps& t :
       filter().taps(max_len, o.order - 1, o.filter_layout == "channel_major")) {
    Stream stream;
    stream.inputs = zeros({batch, max_len, o.d_model}, like);
    stream.sums = zeros({batch, max_len, o.d_model}, like);
    stream.k = t.k;
    stream.D = t.D;
    stream.reversed = t.k.transpose(0, 1).flip({0}).contiguous();
    s->streams.push_back(std::move(stream));
  }
  return s;
}

Tensor HyenaOperator::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  const auto& o = options_;
  auto& s = detail::own_state<HyenaState>(who(), state);
  const detail::StepTokens tokens = detail::check_step(who(), x_t, s, args, {.width = o.d_model});
  detail::check_room(who(), s.rows, tokens, s.max_len);
  no_grad guard;
  const int64_t n = tokens.n, d = o.d_model;
  if (n == 0) return x_t.clone();
  const Tensor u = tokens.packed(in_proj_(x_t), 1),
               z = causal_depthwise_conv(s.recent.before(u), *short_weight_, *short_bias_)
                       .narrow(1, o.short_filter_order - 1, n);
  s.recent.push(u, tokens);
  const Tensor y = detail::step_rows(
      s.rows, tokens, {x_t.size(0), n, d}, 1, z.options(), [&](const detail::RowRun& run) {
        Tensors out;
        for (int64_t t = 0; t < run.fresh;) {
          const detail::StateRow row = s.rows[static_cast<std::size_t>(run.begin)];
          const int64_t count = row.length == 0 ? run.fresh : 1;
          const Tensor now = run.of(z).narrow(1, t, count);
          auto block = [&](int64_t i) { return now.narrow(2, i * d, d); };
          Tensor v = block(o.order);
          for (int64_t i = 0; i < o.order - 1; ++i) {
            v = v * block(o.order - 1 - i);
            Stream& stream = s.streams[static_cast<std::size_t>(i)];
            v = count > 1 ? convolve_first(stream, run, v, s.max_len)
                          : convolve_next(stream, run, v, row.length, row.start, s.max_len);
          }
          out.push_back(v * block(0));
          for (int64_t b = run.begin; b < run.begin + run.rows; ++b)
            s.rows[static_cast<std::size_t>(b)] = {row.length + count,
                                                   count > 1 ? count : row.start};
          t += count;
        }
        return concat(out, 1);
      });
  s.saw(n, tokens.padding);
  return out_proj_(activate(y));
}

}  // namespace dropin
