// dropin inside LibTorch programs: components as torch::nn::Module, optimizers on torch parameters,
// tensors without copies. Needs LibTorch 1.13 or later; no other header of dropin includes it.
//
//   dropin::interop::Layer attention("LongformerAttention",
//                                    R"({"embed_dim": 64, "num_heads": 4, "window": 32})");
//   model->register_module("attention", attention);  // its parameters are torch's: any torch
//                                                    // optimizer trains them
//   torch::Tensor y = attention->forward(x);         // gradients flow through
#pragma once
#include "dropin/interop/torch_layer.h"
#include "dropin/interop/torch_optimizer.h"
#include "dropin/interop/torch_swap.h"
#include "dropin/interop/torch_tensor.h"
