// Files in one line: models and state_dicts.
#pragma once
#include <concepts>
#include <string>
#include <utility>
#include <vector>

#include "dropin/module/module.h"
#include "dropin/serialize/safetensors.h"
#include "dropin/serialize/state_file.h"

namespace dropin {

/// Writes a model's parameters and buffers as safetensors, atomically, and in the metadata what
/// load(path) needs to build it again: type and options of every registered module in it, swapped
/// ones included. `metadata` comes beside. FileError when it cannot be written.
void save(const Module& model, const std::string& path,
          const std::vector<std::pair<std::string, std::string>>& metadata = {});
/// Copies the tensors of a file into a model, as Module::load_state_dict: a file of save(), a
/// training checkpoint, or any checkpoint that load_state() reads (safetensors, GGUF, .pt, .npz) by
/// the model's names or names that it knows, or by those of a map for its type (name_maps()). What
/// programs put around weights is taken off: "module.", "_orig_mod.", or a dict's "model.",
/// "state_dict.", "model_state_dict.", where the model has no such child. All this is in the
/// report's `renamed`. Where the file says that another layer stood at a path (a swap), strict is a
/// StateError.
LoadReport load(Module& model, const std::string& path, bool strict = true);
/// The same of a file that is open, with its names as they are now (after map_names()).
LoadReport load(Module& model, const StateFile& file, bool strict = true);
/// Builds the model that save() or save_checkpoint() wrote, by registry names, in eval mode,
/// of the dtype of its tensors. FileError for a file that does not say what it holds, or names a
/// type that is not registered.
Box<Module> load(const std::string& path);

/// The tensors of a checkpoint by name, as load_state(path).state_dict() (numbers that no Tensor
/// has are converted); of a training checkpoint, those of the model. FileError.
StateDict load_state_dict(const std::string& path);
/// Writes a StateDict, atomically: save_safetensors(path, model.state_dict()).
template <std::same_as<StateDict> S>
void save_safetensors(const std::string& path, const S& state,
                      const std::vector<std::pair<std::string, std::string>>& metadata = {}) {
  save_safetensors(path, std::vector<std::pair<std::string, Tensor>>(state.begin(), state.end()),
                   metadata);
}

/// What load(path) builds a model from: {"type", "options", "modules": {path: {"type",
/// "options"}}}.
Json describe_model(const Module& model);
/// The reverse, with fresh parameters; OptionError for what no registered component is.
Box<Module> build_model(const Json& description);

}  // namespace dropin
