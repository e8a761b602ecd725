// What every kernel's struct owes dispatch: it lists all its arrays, so that one on another device
// is refused before the call.
#include <gtest/gtest.h>

#include <functional>

#include "kernels/arrays.h"
#include "kernels/attention/kernel.h"
#include "kernels/bitlinear/kernel.h"
#include "kernels/conv/kernel.h"
#include "kernels/deform/kernel.h"
#include "kernels/example/kernel.h"
#include "kernels/fft_conv/kernel.h"
#include "kernels/latent/kernel.h"
#include "kernels/mixed_heads/kernel.h"
#include "kernels/norm/kernel.h"
#include "kernels/optim8/kernel.h"
#include "kernels/search/kernel.h"
#include "kernels/softmax/kernel.h"
#include "kernels/ssd/kernel.h"
#include "kernels/traces/kernel.h"
#include "support.h"

namespace dropin::testing {
namespace {

using namespace kernels;
using abi::TensorIn;
using abi::TensorOut;

template <class S>
std::size_t arrays_listed(const S& s) {
  std::size_t n = 0;
  s.tensors([&](const TensorIn&) { ++n; });
  return n;
}

// Array i of the struct, empty but for its place: a CUDA device.
template <class S>
void send_away(S& s, std::size_t i) {
  static float value = 0;
  std::size_t n = 0;
  s.tensors([&](const TensorIn& t) {
    if (n++ != i) return;
    auto& array = const_cast<TensorIn&>(t);  // s itself is not const
    array.data = &value;
    array.device = DeviceType::CUDA;
  });
}

struct StructCase {
  const char* name;
  std::size_t arrays;  // as many as the struct's size has room for
  std::size_t listed;
  std::function<void(std::size_t)> run;  // with array i elsewhere
};
template <class S, class F>
StructCase struct_case(const char* name, F call) {
  return {name, sizeof(S) / sizeof(TensorIn), arrays_listed(S{}), [call](std::size_t i) {
            S s{};
            send_away(s, i);
            call(s);
          }};
}

std::vector<StructCase> norms_and_losses() {
  const TensorIn in;
  const TensorOut out;
  return {
      struct_case<NormInputs>(
          "layer_norm_forward",
          [=](const NormInputs& s) { run<layer_norm_forward>(kCPU, s, out, out, out); }),
      struct_case<NormGradients>("layer_norm_backward",
                                 [=](const NormGradients& s) {
                                   run<layer_norm_backward>(kCPU, in, NormInputs{}, in, in, s);
                                 }),
      struct_case<NormInputs>(
          "rms_norm_backward",
          [=](const NormInputs& s) { run<rms_norm_backward>(kCPU, in, s, in, NormGradients{}); }),
      struct_case<BatchNormInputs>(
          "batch_norm_forward",
          [=](const BatchNormInputs& s) { run<batch_norm_forward>(kCPU, s, out); }),
      struct_case<NormGradients>("batch_norm_backward",
                                 [=](const NormGradients& s) {
                                   run<batch_norm_backward>(kCPU, in, BatchNormInputs{}, s);
                                 }),
      struct_case<CrossEntropyInputs>(
          "cross_entropy_forward",
          [=](const CrossEntropyInputs& s) { run<cross_entropy_forward>(kCPU, s, out, out); }),
      struct_case<CrossEntropyInputs>("cross_entropy_backward", [=](const CrossEntropyInputs& s) {
        run<cross_entropy_backward>(kCPU, in, s, in, out);
      })};
}

std::vector<StructCase> products_and_steps() {
  const TensorIn in;
  const TensorOut out;
  return {struct_case<State8>(
              "optimizer8_step state1",
              [=](const State8& s) { run<optimizer8_step>(kCPU, Step8{}, out, in, s, State8{}); }),
          struct_case<State8>(
              "optimizer8_step state2",
              [=](const State8& s) { run<optimizer8_step>(kCPU, Step8{}, out, in, State8{}, s); }),
          struct_case<DeformConvInputs>(
              "deform_conv2d_forward",
              [=](const DeformConvInputs& s) { run<deform_conv2d_forward>(kCPU, s, out); }),
          struct_case<DeformConvGradients>("deform_conv2d_backward",
                                           [=](const DeformConvGradients& s) {
                                             run<deform_conv2d_backward>(kCPU, in,
                                                                         DeformConvInputs{}, s);
                                           }),
          struct_case<BitCodes>("bit_linear h",
                                [=](const BitCodes& s) {
                                  run<kernels::bit_linear>(kCPU, false, BitActivations{}, s,
                                                           BitWeight{}, in, out);
                                }),
          struct_case<BitWeight>("bit_linear weight", [=](const BitWeight& s) {
            run<kernels::bit_linear>(kCPU, false, BitActivations{}, BitCodes{}, s, in, out);
          })};
}

std::vector<StructCase> mixers() {
  const TensorIn in;
  const TensorOut out;
  return {
      struct_case<LatentInputs>(
          "latent_forward",
          [=](const LatentInputs& s) { run<latent_forward>(kCPU, s, out, out, out); }),
      struct_case<LatentGradients>(
          "latent_backward",
          [=](const LatentGradients& s) { run<latent_backward>(kCPU, in, LatentInputs{}, in, s); }),
      struct_case<TraceInputs>("trace_forward",
                               [=](const TraceInputs& s) { run<trace_forward>(kCPU, s, out); }),
      struct_case<TraceGradients>(
          "trace_backward",
          [=](const TraceGradients& s) { run<trace_backward>(kCPU, in, TraceInputs{}, in, s); }),
      struct_case<AttentionInputs>("attention_forward",
                                   [=](const AttentionInputs& s) {
                                     run<attention_forward>(kCPU, s, AttentionSpec{}, out, out,
                                                            out);
                                   }),
      struct_case<AttentionResults>("attention_backward results",
                                    [=](const AttentionResults& s) {
                                      run<attention_backward>(kCPU, in, in, AttentionInputs{},
                                                              AttentionSpec{}, s,
                                                              AttentionGradients{});
                                    }),
      struct_case<AttentionGradients>("attention_backward out",
                                      [=](const AttentionGradients& s) {
                                        run<attention_backward>(kCPU, in, in, AttentionInputs{},
                                                                AttentionSpec{}, AttentionResults{},
                                                                s);
                                      }),
      struct_case<MixedHeadsInputs>("mixed_heads_forward",
                                    [=](const MixedHeadsInputs& s) {
                                      run<mixed_heads_forward>(kCPU, s, MixedHeadsSpec{}, out);
                                    }),
      struct_case<MixedHeadsGradients>("mixed_heads_backward",
                                       [=](const MixedHeadsGradients& s) {
                                         run<mixed_heads_backward>(kCPU, in, MixedHeadsInputs{},
                                                                   MixedHeadsSpec{}, s);
                                       }),
      struct_case<FftConvInputs>(
          "fft_conv_forward",
          [=](const FftConvInputs& s) { run<fft_conv_forward>(kCPU, s, out, out, out); }),
      struct_case<FftConvGradients>("fft_conv_backward",
                                    [=](const FftConvGradients& s) {
                                      run<fft_conv_backward>(kCPU, in, FftConvInputs{}, in, in, s);
                                    }),
      struct_case<SearchInputs>(
          "search_best", [=](const SearchInputs& s) { run<search_best>(kCPU, s, out, out); }),
      struct_case<ExampleInputs>("example_scaled_sum", [=](const ExampleInputs& s) {
        run<example_scaled_sum>(kCPU, s, out);
      })};
}

std::vector<StructCase> struct_cases() {
  std::vector<StructCase> all;
  for (const auto& some : {norms_and_losses(), products_and_steps(), mixers()})
    all.insert(all.end(), some.begin(), some.end());
  return all;
}

TEST(Structs, ListAllTheirArrays) {
  for (const StructCase& c : struct_cases()) EXPECT_EQ(c.listed, c.arrays) << c.name;
}

TEST(Structs, DispatchSeesTheDeviceOfEachArray) {
  for (const StructCase& c : struct_cases())
    for (std::size_t i = 0; i < c.arrays; ++i) {
      SCOPED_TRACE(std::string(c.name) + ", array " + std::to_string(i));
      EXPECT_ERROR(c.run(i), DeviceError, "tensors on cpu and cuda:0");
    }
}

TEST(Structs, DispatchSeesTheDeviceOfEachArrayOfEachRun) {
  constexpr std::size_t kArrays = sizeof(DepthwiseRun) / sizeof(TensorIn);
  for (std::size_t i = 0; i < 2 * kArrays; ++i) {
    DepthwiseRun two[2];
    DepthwiseRuns runs{two, 2};
    ASSERT_EQ(arrays_listed(runs), 2 * kArrays);
    send_away(runs, i);
    EXPECT_ERROR(run<mixed_depthwise_forward>(kCPU, TensorIn{}, runs, TensorOut{}), DeviceError,
                 "tensors on cpu and cuda:0");
    EXPECT_ERROR(run<mixed_depthwise_backward>(kCPU, TensorIn{}, TensorIn{}, runs, TensorOut{}),
                 DeviceError, "tensors on cpu and cuda:0");
  }
}

}  // namespace
}  // namespace dropin::testing
