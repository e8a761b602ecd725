// Writing state files: conversion between containers and number formats, tensor by tensor.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "dropin/serialize/state_file.h"

namespace dropin {

struct SaveStateOptions {
  /// Of floating-point tensors: F64, F32, F16, BF16, F8_E4M3, F8_E5M2, F8_E4M3FNUZ, F8_E5M2FNUZ,
  /// F8_E8M0, F6_E2M3, F6_E3M2, F4 (safetensors), or F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1,
  /// TQ1_0, TQ2_0, MXFP4 (GGUF; tensors of one dimension, and rows that are no whole blocks, stay
  /// F32). Empty: as they are stored where the container has that format, otherwise the dtype that
  /// read() gives.
  std::string format;
  /// Whose rules round to 4- to 8-bit floats: "torch" or "ml_dtypes".
  std::string conversion = "torch";
  /// Bytes of data a shard holds at most (a tensor larger than that has one of its own), 0: one
  /// file. NAME-00001-of-00003.safetensors, ... and NAME.safetensors.index.json; safetensors only.
  std::int64_t shard_size = 0;
  /// Of GGUF: the number of bytes that tensors are aligned to, a power of two.
  std::int64_t alignment = 32;
  /// Texts for safetensors, any values for GGUF; others are written as JSON text.
  Json metadata = Json::object();
  /// Called after each tensor: tensors done, of how many, bytes written.
  std::function<void(std::size_t done, std::size_t of, std::uint64_t bytes)> progress;
};

/// A Tensor as what save_state() takes.
StoredTensor stored_tensor(std::string name, const Tensor& t);
/// What a tensor would be written as.
std::string saved_format(const StoredTensor& t, const std::string& path,
                         const SaveStateOptions& options = {});
/// Writes tensors to a .safetensors or .gguf file, one after the other: no more than one is in
/// memory. Atomic: each file appears whole or not at all, of shards the index last. Returns the
/// files written. OptionError for another ending, an unknown format, or one that the container does
/// not have; FileError.
std::vector<std::string> save_state(const std::string& path,
                                    const std::vector<StoredTensor>& tensors,
                                    const SaveStateOptions& options = {});

}  // namespace dropin
