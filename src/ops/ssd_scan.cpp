// Glossary: c a chunk, Q its tokens, G groups of R heads, s the sum of a = dt A from the chunk's
// first token to this one, e the same without this one.
#include "dropin/ops/ssd_scan.h"

#include "dropin/ops/masked.h"
#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/hd.h"
#include "kernels/ssd/kernel.h"
#include "ops/common.h"

namespace dropin {

namespace {

using kernels::kInf;

void ssd_need(const char* who, const char* name, const Tensor& t, const Shape& want) {
  if (!t.defined()) return;
  ops_detail::need_floating(who, t);
  if (!(t.sizes() == want))
    fail<ShapeError>({who, ": ", name, " is ", t.sizes(), ", expected ", want});
}

void check_ssd(const Tensor& x, const Tensor& dt, const Tensor& A, const Tensor& B, const Tensor& C,
               const SsdScanArgs& args) {
  const char* who = "ssd_scan";
  ops_detail::need_floating(who, x);
  if (x.dim() != 4) fail<ShapeError>({who, ": x is ", x.sizes(), ", expected [B, L, H, P]"});
  const int64_t b = x.size(0), l = x.size(1), h = x.size(2);
  ssd_need(who, "dt", dt, {b, l, h});
  ssd_need(who, "A", A, {h});
  if (B.dim() != 4 || B.size(0) != b || B.size(1) != l)
    fail<ShapeError>({who, ": B is ", B.sizes(), ", expected [", b, ", ", l, ", G, N]"});
  ssd_need(who, "B", B, B.sizes());
  ssd_need(who, "C", C, B.sizes());
  if (B.size(2) < 1 || h % B.size(2) != 0)
    fail<ShapeError>({who, ": ", h, " heads are not divisible by the ", B.size(2), " groups of B"});
  ssd_need(who, "D", args.D, {h});
  ssd_need(who, "initial_states", args.initial_states, {b, h, x.size(3), B.size(3)});
  if (args.seq_idx.defined()) {
    ops_detail::need_int64(who, "seq_idx", args.seq_idx);
    if (!(args.seq_idx.sizes() == Shape{b, l}))
      fail<ShapeError>(
          {who, ": seq_idx is ", args.seq_idx.sizes(), ", expected [", b, ", ", l, "]"});
  }
  if (args.chunk_size < 1)
    fail<OptionError>({who, ": chunk_size is ", args.chunk_size, ", expected at least 1"});
}

// The states between chunks, [B, chunks + 1, K, M]: all[c + 1] = decay[c] all[c] + fresh[c] from
// all[0] = first; reverse: all[c] = decay[c] all[c + 1] + fresh[c] from all[chunks] = first. fresh
// [B, chunks, K, M], decay [B, chunks, K, 1]. Its gradient is the same scan the other way.
Tensor carried(const Tensor& fresh, const Tensor& decay, const Tensor& first, bool reverse) {
  const int64_t n = fresh.size(1);
  Tensor all = empty({fresh.size(0), n + 1, fresh.size(2), fresh.size(3)}, fresh.options());
  {
    no_grad guard;
    all.select(1, reverse ? n : 0).copy_(first);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t c = reverse ? n - 1 - i : i;
      Tensor now = all.select(1, reverse ? c : c + 1);
      now.copy_(all.select(1, reverse ? c + 1 : c));
      now.mul_(decay.select(1, c)).add_(fresh.select(1, c));
    }
  }
  return record("ssd_carry", all, {fresh, decay, first}, {decay, all},
                [n, reverse](const Saved& s, const Tensor& g) -> Tensors {
                  const Tensor decay = s[0], all = s[1];
                  const int64_t into = reverse ? 0 : 1, from = 1 - into;
                  const Tensor back =
                      carried(g.narrow(1, from, n), decay, g.select(1, reverse ? 0 : n), !reverse);
                  const Tensor fresh = back.narrow(1, into, n);
                  return {fresh, sum(fresh * all.narrow(1, from, n), {-1}, true),
                          back.select(1, reverse ? n : 0)};
                });
}

// Where seq_idx lets a state pass; all undefined without it.
struct Passes {
  Tensor pair;   // [B, c, 1, Q, Q]: from token j to token i
  Tensor enter;  // [B, c, 1, Q]: from the state before the chunk to token i
  Tensor leave;  // [B, c, 1, Q]: from token j to the state after the chunk
  Tensor cross;  // [B, c, 1]: from one state to the next
};
Passes passes_of(const Tensor& seq_idx, int64_t chunks, int64_t q, bool reverse) {
  if (!seq_idx.defined()) return {};
  const int64_t b = seq_idx.size(0), l = seq_idx.size(1), n = chunks * q;
  const Tensor cut = seq_idx.narrow(1, 1, l - 1) != seq_idx.narrow(1, 0, l - 1),
               run = cumsum(concat({zeros({b, 1}, {kInt64, seq_idx.device()}), cut.to(kInt64)}, 1),
                            1);
  Tensor all = run;  // of which sequence a token is; what fills the last chunk is of the last
  if (n > l) all = concat({run, run.narrow(1, l - 1, 1).expand({b, n - l})}, 1);
  all = all.reshape({b, chunks, q});
  const Tensor head = all.select(2, 0), tail = all.select(2, q - 1);
  Tensor before;  // of the token that the state comes from, [B, c]
  if (reverse)
    before = concat({head.narrow(1, 1, chunks - 1), tail.narrow(1, chunks - 1, 1)}, 1);
  else
    before = concat({head.narrow(1, 0, 1), tail.narrow(1, 0, chunks - 1)}, 1);
  const Tensor after = reverse ? head : tail;
  return {(all.unsqueeze(3) == all.unsqueeze(2)).unsqueeze(2),
          (all == before.unsqueeze(2)).unsqueeze(2), (all == after.unsqueeze(2)).unsqueeze(2),
          (after == before).unsqueeze(2)};
}

// Decays of the chunks: exponentials of sums of a. The sums are float64, so that a token that
// forgets everything (a = -1e6) does not blur those after it.
struct Decays {
  Tensor pair;   // [B, c, H, Q, Q]
  Tensor enter;  // [B, c, H, Q]
  Tensor leave;  // [B, c, H, Q]
  Tensor cross;  // [B, c, H]
  Tensor none;   // bool, broadcasts to pair: where it is 0
};
Decays decays_of(const Tensor& a, const Passes& may, bool reverse) {
  const int64_t q = a.size(3);
  const Tensor wide = a.to(kFloat64), s = cumsum(wide, 3), end = s.narrow(3, q - 1, 1),
               e = s - wide;
  auto decay = [&](const Tensor& exponent, const Tensor& pass) {
    const Tensor seen = pass.defined() ? where(pass, exponent, -kInf<double>) : exponent;
    return exp(seen.to(a.dtype()));
  };
  const Tensor place = arange(q).to(a.device()), i = place.unsqueeze(1), j = place.unsqueeze(0),
               order = reverse ? j >= i : i >= j;
  const Tensor pair = reverse ? e.unsqueeze(3) - e.unsqueeze(4) : s.unsqueeze(4) - s.unsqueeze(3);
  const Tensor seen = may.pair.defined() ? logical_and(may.pair, order) : order;
  return {decay(pair, seen), decay(reverse ? end - e : s, may.enter),
          decay(reverse ? e : end - s, may.leave), decay(end.squeeze(3), may.cross),
          logical_not(seen)};
}

// [B, L, K, M] -> [B, chunks, K, Q, M], zeros behind the last token.
Tensor chunked(const Tensor& x, int64_t chunks, int64_t q) {
  const int64_t missing = chunks * q - x.size(1);
  const Tensor whole = missing ? pad(x, {0, 0, 0, 0, 0, missing}) : x;
  return whole.reshape({x.size(0), chunks, q, x.size(2), x.size(3)}).transpose(2, 3);
}

SsdScanResult scan_chunks(const Tensor& x, const Tensor& dt, const Tensor& A, const Tensor& B,
                          const Tensor& C, const Tensor& first, const SsdScanArgs& args) {
  const int64_t b = x.size(0), l = x.size(1), h = x.size(2), p = x.size(3), g = B.size(2),
                n = B.size(3), r = h / g, chunks = ceil_div(l, args.chunk_size),
                q = ceil_div(l, chunks);
  const Tensor steps = chunked(dt.unsqueeze(3), chunks, q),  // [B, c, H, Q, 1]
      a = (steps * A.reshape({h, 1, 1})).squeeze(4);
  const Decays decay = decays_of(a, passes_of(args.seq_idx, chunks, q, args.reverse), args.reverse);
  const Tensor in = chunked(x, chunks, q) * steps;
  auto grouped = [&](const Tensor& t, int64_t rows, int64_t columns) {
    return t.reshape({b, chunks, g, r, rows, columns});
  };
  const Tensor keys = chunked(B, chunks, q).unsqueeze(3),
               queries = chunked(C, chunks, q).unsqueeze(3);
  // a number that is not finite reaches no token that does not see it
  const Tensor scores = matmul(queries, keys.mT()) * grouped(decay.pair, q, q),
               weights = masked_fill(scores.reshape({b, chunks, h, q, q}), decay.none, 0),
               near = weighted_values(weights, in, true);
  const Tensor fresh =
      matmul(grouped((in * decay.leave.unsqueeze(4)).mT(), p, q), keys);  // [B, c, G, R, P, N]
  const Tensor states = carried(fresh.reshape({b, chunks, h, p * n}), decay.cross.unsqueeze(3),
                                first.reshape({b, h, p * n}), args.reverse);
  const Tensor before = grouped(states.narrow(1, args.reverse ? 1 : 0, chunks), p, n);
  const Tensor far = matmul(queries, before.mT()) * grouped(decay.enter, q, 1);
  const Tensor y = (near + far.reshape({b, chunks, h, q, p}))
                       .transpose(2, 3)
                       .reshape({b, chunks * q, h, p})
                       .narrow(1, 0, l);
  return {y, states.select(1, args.reverse ? 0 : chunks).reshape({b, h, p, n})};
}

}  // namespace

SsdScanResult plain::ssd_scan(const Tensor& x, const Tensor& dt, const Tensor& A, const Tensor& B,
                              const Tensor& C, const SsdScanArgs& args) {
  SsdScanResult r{x, args.initial_states};
  if (x.size(1) > 0) r = scan_chunks(x, dt, A, B, C, args.initial_states, args);
  if (args.D.defined()) r.y = r.y + x * args.D.unsqueeze(1);
  return r;
}

namespace {

// Of inputs x, dt, A, B, C, the state before and, where there is one, D.
kernels::SsdInputs ssd_inputs(const Tensors& t, const Tensor& seq_idx, bool reverse) {
  return {.x = t[0].in(),
          .dt = t[1].in(),
          .A = t[2].in(),
          .B = t[3].in(),
          .C = t[4].in(),
          .D = t.size() > 6 ? t[6].in() : abi::TensorIn(),
          .state = t[5].in(),
          .seq_idx = seq_idx.in(),
          .reverse = reverse};
}

Tensors ssd_gradients(const Tensors& t, const Tensor& seq_idx, bool reverse, const Tensors& gys) {
  const Tensor &x = t[0], &B = t[3];
  const int64_t b = x.size(0), l = x.size(1), h = x.size(2), g = B.size(2), n = B.size(3);
  Tensor gx = empty_like(x), gdt = empty_like(t[1]), ga = empty({b, h}, x.options()),
         gkeys = empty({b, l, h, n}, x.options()), gqueries = empty_like(gkeys),
         gstate = empty_like(t[5]), gd = t.size() > 6 ? empty_like(ga) : Tensor();
  auto given = [](const Tensor& gy) { return gy.defined() ? gy.contiguous() : gy; };
  const Tensor gy = given(gys[0]), gfinal = given(gys[1]);
  run<kernels::ssd_backward>(
      x.device(), gy.in(), gfinal.in(), ssd_inputs(t, seq_idx, reverse),
      kernels::SsdGradients{gx.out(), gdt.out(), ga.out(), gkeys.out(), gqueries.out(),
                            gd.defined() ? gd.out() : abi::TensorOut(), gstate.out()});
  auto of_group = [&](const Tensor& all) {
    return g == h ? all : sum(all.reshape({b, l, g, h / g, n}), {3});
  };
  Tensors r{gx, gdt, sum(ga, {0}), of_group(gkeys), of_group(gqueries), gstate};
  if (gd.defined()) r.push_back(sum(gd, {0}));
  return r;
}

Tensor in_one(const Tensor& y, const Tensor& state) {
  return concat({y.reshape({-1}), state.reshape({-1})});
}

// Second derivatives: those of the definition.
Tensors ssd_gradients_recorded(const Saved& s, const Tensors& t, const SsdScanArgs& args,
                               const Tensors& gys) {
  const Tensor gy = in_one(gys[0].defined() ? gys[0] : zeros_like(t[0]),
                           gys[1].defined() ? gys[1] : zeros_like(t[5]));
  return plain_gradients(s, t, gy, [args](const Tensors& in) {
    SsdScanArgs all = args;
    all.initial_states = in[5];
    if (in.size() > 6) all.D = in[6];
    const SsdScanResult r = plain::ssd_scan(in[0], in[1], in[2], in[3], in[4], all);
    return in_one(r.y, r.final_state);
  });
}

SsdScanResult ssd_by_kernel(Tensors t, const SsdScanArgs& args) {
  for (Tensor& one : t) one = one.contiguous();
  const Tensor seq_idx = args.seq_idx.defined() ? args.seq_idx.contiguous() : args.seq_idx;
  Tensor y = empty_like(t[0]), final_state = empty_like(t[5]);
  run<kernels::ssd_forward>(y.device(), ssd_inputs(t, seq_idx, args.reverse), y.out(),
                            final_state.out());
  SsdScanArgs kept = args;
  kept.seq_idx = seq_idx;
  kept.D = kept.initial_states = Tensor();  // they are inputs
  const Tensors ys = record_many("ssd_scan", {y, final_state}, t, t,
                                 [kept](const Saved& s, const Tensors& gys) -> Tensors {
                                   Tensors t;
                                   for (int i = 0; i < s.inputs(); ++i) t.push_back(s[i]);
                                   if (grad_enabled())
                                     return ssd_gradients_recorded(s, t, kept, gys);
                                   return ssd_gradients(t, kept.seq_idx, kept.reverse, gys);
                                 });
  return {ys[0], ys[1]};
}

}  // namespace

SsdScanResult ssd_scan(const Tensor& x, const Tensor& dt, const Tensor& A, const Tensor& B,
                       const Tensor& C, const SsdScanArgs& args) {
  check_ssd(x, dt, A, B, C, args);
  const DType type = ops_detail::compute_type(x.dtype());
  auto wide = [&](const Tensor& t) { return t.defined() ? t.to(type) : t; };
  SsdScanArgs all = args;
  all.initial_states =
      args.initial_states.defined()
          ? wide(args.initial_states)
          : zeros({x.size(0), x.size(2), x.size(3), B.size(3)}, {type, x.device()});
  all.D = wide(args.D);
  Tensors t{wide(x), wide(dt), wide(A), wide(B), wide(C), all.initial_states};
  SsdScanResult r;
  if (type == kFloat32 && x.size(1) > 0 &&
      has_kernels<kernels::ssd_forward, kernels::ssd_backward>(x.device())) {
    if (all.D.defined()) t.push_back(all.D);
    r = ssd_by_kernel(std::move(t), all);
  } else {
    r = plain::ssd_scan(t[0], t[1], t[2], t[3], t[4], all);
  }
  r.y = r.y.to(x.dtype());
  return r;
}

SsdScanResult ssd_step(const Tensor& state, const Tensor& x_t, const Tensor& dt_t, const Tensor& A,
                       const Tensor& B_t, const Tensor& C_t, const Tensor& D) {
  if (x_t.dim() != 3 || dt_t.dim() != 2 || B_t.dim() != 3 || C_t.dim() != 3)
    fail<ShapeError>({"ssd_step: x_t, dt_t, B_t and C_t are ", x_t.sizes(), ", ", dt_t.sizes(),
                      ", ", B_t.sizes(), " and ", C_t.sizes(),
                      ", expected [B, H, P], [B, H], [B, G, N] and [B, G, N]"});
  SsdScanArgs args;
  args.D = D;
  args.initial_states = state;
  SsdScanResult r =
      ssd_scan(x_t.unsqueeze(1), dt_t.unsqueeze(1), A, B_t.unsqueeze(1), C_t.unsqueeze(1), args);
  r.y = r.y.squeeze(1);
  return r;
}

}  // namespace dropin
