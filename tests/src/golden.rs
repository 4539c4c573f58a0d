//! Golden values: what the f64 reference computed for the checkpoints in `tests/golden`.

use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};

/// A checkpoint with golden values.
pub struct Golden {
    /// Its directory.
    pub directory: PathBuf,
    bytes: Vec<u8>,
}

/// The folder of golden checkpoints.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

impl Golden {
    /// By the name of its folder.
    pub fn open(name: &str) -> Self {
        Self::at(folder().join(name))
    }

    /// In any directory that has a `golden.safetensors`.
    pub fn at(directory: PathBuf) -> Self {
        let path = directory.join("golden.safetensors");
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Golden { directory, bytes }
    }

    fn tensor(&self, name: &str, dtype: Dtype) -> (Vec<[u8; 4]>, Vec<usize>) {
        let file = SafeTensors::deserialize(&self.bytes).expect("a golden file is well formed");
        let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(tensor.dtype() == dtype, "{name} is {:?}", tensor.dtype());
        let words = tensor.data().chunks_exact(4).map(|word| word.try_into().expect("4 bytes")).collect();
        (words, tensor.shape().to_vec())
    }

    /// An F32 tensor.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.tensor(name, Dtype::F32).0.into_iter().map(f32::from_le_bytes).collect()
    }

    /// An I32 tensor.
    pub fn i32(&self, name: &str) -> Vec<i32> {
        self.tensor(name, Dtype::I32).0.into_iter().map(i32::from_le_bytes).collect()
    }

    /// An I32 tensor of ids.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.i32(name).into_iter().map(|id| u32::try_from(id).expect("ids are not negative")).collect()
    }

    /// Whether the file has a tensor.
    pub fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.bytes).expect("a golden file is well formed").tensor(name).is_ok()
    }
}
