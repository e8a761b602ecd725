// Names of other libraries' checkpoints into ours: tables, one per family of models.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "dropin/serialize/state_file.h"

namespace dropin {

/// One rule. `*` in a pattern stands for a number, which takes the place of `*` in `ours`; a
/// pattern that ends in a dot holds for all that begins so.
struct NameRule {
  /// What happens to the values: nothing; the two axes change places (GPT-2 keeps its matrices
  /// transposed); the first two rows are left out (RoBERTa's positions begin at 2); or the tensor
  /// is no parameter.
  enum Change { Keep, Transpose, SkipTwoRows, Drop };
  std::string theirs, ours;
  Change change = Keep;
};
struct NameMap {
  std::string name;    ///< BERT, RoBERTa, Longformer, ViT, timm-ViT, GPT-2, Llama, MixNet, ...
  std::string model;   ///< the component whose names these become
  std::string prefix;  ///< that all names may have: "bert."
  std::vector<NameRule> rules;  ///< the first that fits is taken
};
/// What map_names() did.
struct NameMapReport {
  std::string map;
  std::vector<std::pair<std::string, std::string>> renamed;  ///< theirs, ours; also where equal
  std::vector<std::string> dropped;                          ///< no parameters of ours
  std::vector<std::string> unused;  ///< no rule knew them; left as they were
};
struct NameMapChoice {
  std::string name;  ///< empty: none fits
  std::size_t matched = 0;
};

const std::vector<NameMap>& name_maps();
/// By its name, in any case; OptionError naming what there is.
const NameMap& name_map(std::string_view name);
/// The map that knows most of a file's names, if it knows at least half of them.
NameMapChoice guess_name_map(const StateFile& file);
/// Renames the tensors of a file; a leading "module." (of DataParallel), "_orig_mod." (of
/// torch.compile) and the map's prefix are taken off. Aliases are renamed too, so that tied weights
/// stay tied. FileError when two tensors get one name or a transposed one is no matrix.
NameMapReport map_names(StateFile& file, std::string_view map);

}  // namespace dropin
