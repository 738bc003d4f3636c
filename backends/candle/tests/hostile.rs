//! Models that contradict themselves are refused by name, and never reach the kernels. Each was found by fuzzing.

mod support;

use std::fs;

use candle_core::{DType, Device, Tensor};

use support::{golden, refused};

#[test]
fn an_mlp_without_width_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = golden("hgrn2_conv");
    let mut tensors =
        candle_core::safetensors::load(model.join("model.safetensors"), &Device::Cpu).expect("tensors");
    for (part, shape) in [("down", (48, 0)), ("gate", (0, 48)), ("up", (0, 48))] {
        let empty = Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("an empty tensor");
        tensors.insert(format!("model.layers.1.mlp.{part}_proj.weight"), empty);
    }
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).expect("saved");
    fs::copy(model.join("config.json"), folder.path().join("config.json")).expect("copied");
    refused(folder.path(), &["layers.1.mlp.down_proj", "no width"]);
}
