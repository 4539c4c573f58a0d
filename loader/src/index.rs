//! Index and shard headers → a table of tensors, checked completely before a byte of any weight is used.

use crate::config::{CONFIG_LIMIT, ModelConfig};
use crate::error::{Error, Result};
use crate::header::{Entry, parse_header, printable};
use crate::names::{Kind, Name, Role};
use crate::shape::{Dtype, ScaleDtype, Shape};
use crate::source::{Bytes, Source, Stamp};
use crate::stand_in::other_formats;
use crate::tensor::{Scale, Tensor, find_nan};
use rayon::prelude::*;
use serde::de::{MapAccess, Visitor};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const INDEX_FILE: &str = "model.safetensors.index.json";
const SINGLE_FILE: &str = "model.safetensors";

/// The published index of 90,000 tensors has 9 MB.
const INDEX_LIMIT: u64 = 100_000_000;

/// How a checkpoint is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Let FP8 codes and scales through that are not numbers.
    pub allow_nan: bool,
}

/// A checkpoint whose files agree with each other and with its config.
pub struct Checkpoint {
    config: ModelConfig,
    options: Options,
    source: Source,
    /// Shared with readers that may outlive the checkpoint.
    shards: Arc<Vec<Shard>>,
    tensors: HashMap<Role, Stored>,
    bytes: Vec<KindBytes>,
    unknown: Vec<String>,
    notes: Vec<String>,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tensors, shards) = (self.tensors.len(), self.shards.len());
        write!(f, "Checkpoint({}: {tensors} tensors in {shards} shards)", self.config.model_type.model_type())
    }
}

/// One file of weights.
pub struct Shard {
    path: PathBuf,
    bytes: Bytes,
    /// What the file looked like when it was opened; none in memory.
    stamp: Option<Stamp>,
    tensors: usize,
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shard({}: {} tensors, {} bytes)", self.path.display(), self.tensors, self.bytes.len())
    }
}

impl Shard {
    /// Where it is; in memory, its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file, header included.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    fn changed(&self, expected: Stamp, found: String) -> Error {
        let (file, tensor) = (self.path.clone(), "its tensors".into());
        Error::Changed { file, tensor, expected: expected.to_string(), found }
    }

    /// Tensors in it, used or not, scales counted as well.
    pub fn tensors(&self) -> usize {
        self.tensors
    }
}

/// What one kind of weight in one dtype takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindBytes {
    /// The kind.
    pub kind: Kind,
    /// The dtype as in the shard; block scales are listed under their own.
    pub dtype: &'static str,
    /// How many tensors.
    pub tensors: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Where a piece of a shard is.
#[derive(Clone, Copy)]
struct Place {
    shard: u32,
    start: u64,
    end: u64,
}

/// Where bytes of a tensor, or of its scales, lie in the shards; for those who read instead of using the map.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    pub(crate) role: Role,
    pub(crate) is_scale: bool,
    pub(crate) shard: u32,
    pub(crate) range: Range<u64>,
}

impl Location {
    /// The tensor.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether these are its scales.
    pub fn is_scale(&self) -> bool {
        self.is_scale
    }

    /// The file, as an index into [`Checkpoint::shards`].
    pub fn shard(&self) -> usize {
        self.shard as usize
    }

    /// Bytes of the file.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// How many bytes.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// A part of it, for tensors that are split over several places: bytes counted from its start.
    ///
    /// # Panics
    /// If it does not have these bytes.
    pub fn part(&self, bytes: Range<u64>) -> Self {
        let all = self.bytes();
        assert!(bytes.start <= bytes.end && bytes.end <= all, "bytes {bytes:?} of {self}, which has {all}");
        let start = self.range.start;
        Self { range: start + bytes.start..start + bytes.end, ..self.clone() }
    }
}

/// The tensor's name in the file.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_scale {
            true => f.write_str(&self.role.scale_name()),
            false => self.role.fmt(f),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({self}: {:?} of shard {})", self.range, self.shard)
    }
}

struct Stored {
    dtype: Dtype,
    shape: Shape,
    place: Place,
    scale: Option<(ScaleDtype, [u32; 2], Place)>,
}

impl Checkpoint {
    /// Opens a directory in the published layout: `config.json`, and `model.safetensors.index.json` with its shards,
    /// or `model.safetensors`, or `model-00001-of-….safetensors` without an index.
    ///
    /// The shards are mapped, not read. Their sizes are checked now; [`Checkpoint::check_shards`] finds out when one was changed
    /// since. Where a file became shorter, zeros are read (on Unix a handler of SIGBUS sees to that), and
    /// [`Checkpoint::check_read`] says so.
    pub fn open(directory: &Path, options: Options) -> Result<Self> {
        Self::from_source(Source::Directory(directory.into()), options)
    }

    /// The same from files in memory: names as in a directory, and their bytes.
    pub fn from_memory<N, B>(files: impl IntoIterator<Item = (N, B)>, options: Options) -> Result<Self>
    where
        N: Into<String>,
        B: Into<Cow<'static, [u8]>>,
    {
        let files = files.into_iter().map(|(name, bytes)| (name.into(), bytes.into())).collect();
        Self::from_source(Source::Memory(files), options)
    }

    fn from_source(source: Source, options: Options) -> Result<Self> {
        let config = read_config(&source)?;
        let (listing, names) = find_shards(&source)?;
        let open = |(number, name): (usize, &String)| open_shard(&source, number as u32, name, &listing);
        let opened: Vec<_> = names.par_iter().enumerate().map(open).collect();
        let mut shards = Vec::with_capacity(opened.len());
        let mut entries = Vec::with_capacity(opened.len());
        for opened in opened {
            let (shard, tensors) = opened?;
            shards.push(shard);
            entries.push(tensors);
        }
        let mut checkpoint = Self {
            config,
            options,
            source,
            shards: Arc::new(shards),
            tensors: HashMap::new(),
            bytes: Vec::new(),
            unknown: Vec::new(),
            notes: Vec::new(),
        };
        checkpoint.compare_listing(listing, &entries)?;
        checkpoint.assign_roles(&entries)?;
        Ok(checkpoint)
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What it was opened with.
    pub fn options(&self) -> Options {
        self.options
    }

    /// The files of weights.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    pub(crate) fn shared_shards(&self) -> Arc<Vec<Shard>> {
        self.shards.clone()
    }

    /// The directory it was opened from; `None` in memory.
    pub fn directory(&self) -> Option<&Path> {
        match &self.source {
            Source::Directory(directory) => Some(directory),
            Source::Memory(_) => None,
        }
    }

    /// Another file of the checkpoint (`tokenizer.json`, say) of at most `limit` bytes; `None` if there is none.
    pub fn read_file(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        self.source.read(name, limit)
    }

    /// The tensor of a role, or `None` if this model has none. All of [`ModelConfig::required_roles`] are there. The
    /// head of a model with tied embeddings is its embedding.
    pub fn tensor(&self, role: Role) -> Option<Tensor<'_>> {
        self.stored(role).map(|(role, stored)| self.borrow(role, stored))
    }

    fn stored(&self, role: Role) -> Option<(Role, &Stored)> {
        let tied = role == Role::LmHead && self.config.tie_word_embeddings;
        let role = if tied { Role::Embedding } else { role };
        self.tensors.get(&role).map(|stored| (role, stored))
    }

    /// Where the bytes of a tensor lie; `None` where [`Self::tensor`] has none.
    pub fn location(&self, role: Role) -> Option<Location> {
        let (role, stored) = self.stored(role)?;
        let Place { shard, start, end } = stored.place;
        Some(Location { role, is_scale: false, shard, range: start..end })
    }

    /// Where the scales of a tensor lie, not necessarily in the same shard; `None` if it has none.
    pub fn scale_location(&self, role: Role) -> Option<Location> {
        let (role, stored) = self.stored(role)?;
        let (_, _, Place { shard, start, end }) = stored.scale?;
        Some(Location { role, is_scale: true, shard, range: start..end })
    }

    /// Asks the system to read a tensor and its scales from disk soon, where they are not in memory; nothing waits for it.
    pub fn read_ahead(&self, role: Role) {
        if let Some((_, stored)) = self.stored(role) {
            let scale = stored.scale.map(|(_, _, place)| place);
            for Place { shard, start, end } in [Some(stored.place), scale].into_iter().flatten() {
                self.shards[shard as usize].bytes.will_need(start..end);
            }
        }
    }

    /// Refuses to go on with a shard whose file is another than when it was opened. A file that was deleted is still there for us.
    ///
    /// # Errors
    /// [`Error::Changed`], with what was expected and found.
    pub fn check_shards(&self) -> Result<()> {
        self.check_read()?;
        for shard in self.shards.iter() {
            if let (Some(expected), Ok(metadata)) = (shard.stamp, shard.path.metadata())
                && expected != Stamp::of(&metadata)
            {
                return Err(shard.changed(expected, Stamp::of(&metadata).to_string()));
            }
        }
        Ok(())
    }

    /// Refuses what was computed with a shard that became shorter before its bytes were read: zeros were read instead. It asks no
    /// file system, so it may be asked after every step.
    ///
    /// # Errors
    /// [`Error::Changed`], with what was expected and found.
    pub fn check_read(&self) -> Result<()> {
        match self.shards.iter().find(|shard| shard.bytes.is_short()) {
            Some(shard) => {
                let found = shard.path.metadata().map(|metadata| Stamp::of(&metadata).to_string());
                let expected =
                    shard.stamp.unwrap_or(Stamp { length: shard.bytes.len() as u64, modified: None });
                Err(shard.changed(expected, found.unwrap_or_else(|_| "a part of it gone".into())))
            }
            None => Ok(()),
        }
    }

    /// The roles of all tensors that are used, in the order of the forward pass.
    pub fn roles(&self) -> Vec<Role> {
        let mut roles: Vec<_> = self.tensors.keys().copied().collect();
        roles.sort_unstable();
        roles
    }

    /// Bytes by kind and dtype, in the order of the forward pass.
    pub fn bytes_by_kind(&self) -> &[KindBytes] {
        &self.bytes
    }

    /// Bytes of all weights and scales that are used: without the MTP head.
    pub fn weight_bytes(&self) -> u64 {
        let used = self.bytes.iter().filter(|row| !matches!(row.kind, Kind::Mtp | Kind::Unused));
        used.map(|row| row.bytes).sum()
    }

    /// Tensors whose names mean nothing to us; they are left alone.
    pub fn unknown_tensors(&self) -> &[String] {
        &self.unknown
    }

    /// What is unusual about the files, one sentence each, for `show`.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Refuses a tensor with FP8 codes or scales that are not numbers, unless [`Options::allow_nan`]. To be called
    /// before its bytes are used; it reads all of them.
    pub fn check_numbers(&self, tensor: &Tensor<'_>) -> Result<()> {
        if self.options.allow_nan { Ok(()) } else { tensor.check_numbers() }
    }

    /// The same of its scales only, which are few: for those who look through the codes themselves.
    pub fn check_scales(&self, tensor: &Tensor<'_>) -> Result<()> {
        if self.options.allow_nan { Ok(()) } else { tensor.check_scales() }
    }

    /// [`Self::check_numbers`] for every tensor, on all cores. `progress` gets the bytes of each tensor done.
    pub fn check_all_numbers(&self, progress: impl Fn(u64) + Sync) -> Result<()> {
        let failed = self.roles().into_par_iter().map(|role| {
            let tensor = self.borrow(role, &self.tensors[&role]);
            let result = self.check_numbers(&tensor);
            progress(tensor.stored_bytes());
            result.err()
        });
        match failed.find_map_first(|error| error) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn slice(&self, place: Place) -> &[u8] {
        // Both ends were checked against the file when its header was read.
        &self.shards[place.shard as usize].bytes[place.start as usize..place.end as usize]
    }

    fn borrow<'a>(&'a self, role: Role, stored: &Stored) -> Tensor<'a> {
        let scale = stored.scale.map(|(dtype, shape, place)| Scale {
            dtype,
            shape,
            bytes: self.slice(place),
            file: &self.shards[place.shard as usize].path,
        });
        Tensor {
            role,
            dtype: stored.dtype,
            shape: stored.shape,
            bytes: self.slice(stored.place),
            scale,
            file: &self.shards[stored.place.shard as usize].path,
            file_offset: stored.place.start,
        }
    }

    /// Each tensor of the index must be in the shard it names, and in no other.
    fn compare_listing(&mut self, listing: Listing, entries: &[Vec<Entry>]) -> Result<()> {
        let mut homes: HashMap<&str, u32> = HashMap::with_capacity(entries.iter().map(Vec::len).sum());
        let shard_name = |shard: u32| self.shards[shard as usize].path.display().to_string();
        for (shard, tensors) in (0..).zip(entries) {
            for entry in tensors {
                if let Some(other) = homes.insert(&entry.name, shard) {
                    return Err(Error::Duplicate {
                        file: self.shards[shard as usize].path.clone(),
                        tensor: printable(&entry.name),
                        found: format!("in {} too", shard_name(other)),
                    });
                }
            }
        }
        let Listing::Index { file, tensors, total_size } = listing else { return Ok(()) };
        for (name, shard) in &tensors {
            let found = homes.remove(name.as_str());
            if found != Some(*shard) {
                return Err(Error::Misplaced {
                    file,
                    tensor: printable(name),
                    expected: shard_name(*shard),
                    found: found.map_or("none of the shards".into(), shard_name),
                });
            }
        }
        let total: u64 = entries.iter().flatten().map(|entry| entry.end - entry.start).sum();
        if let Some(claimed) = total_size.filter(|claimed| *claimed != total) {
            self.notes.push(format!("the index says {claimed} bytes in all, the shards hold {total}"));
        }
        if let Some(first) = homes.keys().min() {
            let (count, first) = (homes.len(), printable(first));
            self.notes.push(format!("{count} tensors are not in the index, the first is `{first}`"));
        }
        Ok(())
    }

    /// Finds every tensor's role, checks it against the config, and adds up bytes.
    fn assign_roles(&mut self, entries: &[Vec<Entry>]) -> Result<()> {
        let layers = self.config.num_hidden_layers;
        let all =
            || (0u32..).zip(entries).flat_map(|(shard, list)| list.iter().map(move |entry| (shard, entry)));
        let mut scales: HashMap<Role, (u32, &Entry)> = HashMap::new();
        for (shard, entry) in all() {
            if let Name::Scale(role) = Name::parse(&entry.name, layers) {
                scales.insert(role, (shard, entry));
            }
        }

        let mut bytes: BTreeMap<(Kind, &'static str), (u64, u64)> = BTreeMap::new();
        let mut count = |kind: Kind, entry: &Entry| {
            let row = bytes.entry((kind, entry.dtype)).or_default();
            row.0 += 1;
            row.1 += entry.end - entry.start;
        };
        let mut unused: Vec<&str> = Vec::new();
        for (shard, entry) in all() {
            match Name::parse(&entry.name, layers) {
                Name::Weight(role) => {
                    let expected = self.config.shape_of(role);
                    let tied = role == Role::LmHead && self.config.tie_word_embeddings;
                    let Some(shape) = expected.filter(|_| !tied) else {
                        unused.push(&entry.name);
                        count(Kind::Unused, entry);
                        continue;
                    };
                    let stored = self.check_weight(role, shape, shard, entry, &scales)?;
                    count(role.kind(), entry);
                    if stored.scale.is_some() {
                        let (_, scale) = scales.remove(&role).expect("it was just found");
                        count(role.kind(), scale);
                    }
                    self.tensors.insert(role, stored);
                }
                Name::Scale(_) => {} // counted with its weight, or below
                Name::Mtp => count(Kind::Mtp, entry),
                Name::Buffer => count(Kind::Unused, entry),
                Name::Unknown => {
                    count(Kind::Unused, entry);
                    self.unknown.push(printable(&entry.name));
                }
            }
        }
        let mut orphans: Vec<_> = scales.into_values().map(|(_, entry)| entry).collect();
        orphans.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for entry in orphans {
            unused.push(&entry.name);
            count(Kind::Unused, entry);
        }

        let missing = self.config.required_roles().find(|role| !self.tensors.contains_key(role));
        if let Some(role) = missing {
            return Err(self.missing(role, entries));
        }
        if !self.config.generation.ignored.is_empty() {
            let ignored = self.config.generation.ignored.join(", ");
            self.notes
                .push(format!("sampling defaults of generation_config.json that are not taken: {ignored}"));
        }
        if let Some(first) = unused.first() {
            let (count, first) = (unused.len(), printable(first));
            let note = format!("{count} tensors do not belong to this architecture, the first is `{first}`");
            self.notes.push(note);
        }
        if let Some(first) = self.unknown.first() {
            self.notes
                .push(format!("{} tensors have unknown names, the first is `{first}`", self.unknown.len()));
        }
        self.bytes = bytes
            .into_iter()
            .map(|((kind, dtype), (tensors, bytes))| KindBytes { kind, dtype, tensors, bytes })
            .collect();
        Ok(())
    }

    /// What there is in the place of a missing tensor.
    fn instead(&self, role: Role, entries: &[Vec<Entry>]) -> String {
        let layers = self.config.num_hidden_layers;
        let described =
            |entry: &Entry| format!("`{}` ({} {:?})", printable(&entry.name), entry.dtype, entry.shape);
        let mut together = entries.iter().flatten().filter(|entry| role.is_held_together_in(&entry.name));
        if let Some(first) = together.next() {
            let more = together.next().map_or(String::new(), |entry| format!(" and {}", described(entry)));
            return format!(
                "{}{more}: all experts of the layer in one tensor; wanted is one tensor for each expert and projection, as published",
                described(first)
            );
        }
        let unknown = |entry: &&Entry| matches!(Name::parse(&entry.name, layers), Name::Unknown);
        let mut others = entries.iter().flatten().filter(unknown);
        match others.next() {
            Some(first) => format!(
                "none, but {} with names of another kind, the first is {}",
                1 + others.count(),
                described(first)
            ),
            None => "none".into(),
        }
    }

    fn missing(&self, role: Role, entries: &[Vec<Entry>]) -> Error {
        let shape = self.config.shape_of(role).expect("required roles have a shape");
        let tied = match role {
            Role::LmHead => ", or `tie_word_embeddings` true in config.json",
            _ => "",
        };
        Error::MissingTensor {
            file: match self.shards.as_slice() {
                [only] => only.path.clone(),
                _ => self.source.path(INDEX_FILE),
            },
            tensor: role.to_string(),
            expected: format!("{} of shape {shape}{tied}", one_of(role.dtypes().iter().map(|d| d.name()))),
            found: self.instead(role, entries),
        }
    }

    fn check_weight(
        &self,
        role: Role,
        shape: Shape,
        shard: u32,
        entry: &Entry,
        scales: &HashMap<Role, (u32, &Entry)>,
    ) -> Result<Stored> {
        let file = || self.shards[shard as usize].path.clone();
        let Some(dtype) = role.dtypes().iter().copied().find(|dtype| dtype.name() == entry.dtype) else {
            return Err(Error::WrongDtype {
                file: file(),
                tensor: entry.name.clone(),
                expected: one_of(role.dtypes().iter().map(|dtype| dtype.name())),
                found: entry.dtype.into(),
            });
        };
        if !same_shape(shape.sizes(), &entry.shape) {
            return Err(Error::WrongShape {
                file: file(),
                tensor: entry.name.clone(),
                expected: shape.to_string(),
                found: format!("{:?}", entry.shape),
            });
        }
        let place = Place { shard, start: entry.start, end: entry.end };
        if dtype != Dtype::F8E4m3 {
            return Ok(Stored { dtype, shape, place, scale: None });
        }

        const SCALES: [ScaleDtype; 3] = [ScaleDtype::F32, ScaleDtype::Bf16, ScaleDtype::F8E8m0];
        let names = || one_of(SCALES.iter().map(|dtype| dtype.name()));
        let scale_shape = shape.scale_shape();
        let Some((scale_shard, scale)) = scales.get(&role) else {
            return Err(Error::MissingScale {
                file: file(),
                tensor: role.scale_name(),
                expected: format!("{} of shape {scale_shape:?}", names()),
            });
        };
        let file = || self.shards[*scale_shard as usize].path.clone();
        let Some(scale_dtype) = SCALES.into_iter().find(|dtype| dtype.name() == scale.dtype) else {
            return Err(Error::WrongDtype {
                file: file(),
                tensor: scale.name.clone(),
                expected: names(),
                found: scale.dtype.into(),
            });
        };
        if !same_shape(&scale_shape, &scale.shape) {
            return Err(Error::WrongShape {
                file: file(),
                tensor: scale.name.clone(),
                expected: format!("{scale_shape:?}, one scale per 128 × 128 of {shape}"),
                found: format!("{:?}", scale.shape),
            });
        }
        let scale_place = Place { shard: *scale_shard, start: scale.start, end: scale.end };
        Ok(Stored { dtype, shape, place, scale: Some((scale_dtype, scale_shape, scale_place)) })
    }
}

impl Tensor<'_> {
    /// Refuses FP8 codes and scales that are not numbers, naming the first. Reads the whole tensor.
    pub fn check_numbers(&self) -> Result<()> {
        if self.scale.is_none() {
            return Ok(());
        }
        if let Some(position) = find_nan(self.bytes) {
            return Err(self.not_a_number(position as u64));
        }
        self.check_scales()
    }

    /// Refuses scales that are not numbers, naming the first.
    pub fn check_scales(&self) -> Result<()> {
        let Some(scale) = &self.scale else { return Ok(()) };
        for row in 0..scale.shape[0] {
            for column in 0..scale.shape[1] {
                let value = scale.at(row, column);
                if !value.is_finite() {
                    return Err(Error::NotANumber {
                        file: scale.file.into(),
                        tensor: self.role.scale_name(),
                        found: format!("{value} at [{row}, {column}]"),
                    });
                }
            }
        }
        Ok(())
    }

    /// The error for a NaN that [`find_nan`] found at this byte of the tensor, for those who search piece by piece.
    pub fn not_a_number(&self, position: u64) -> Error {
        let columns = u64::from(self.shape.columns()).max(1);
        let code = self.bytes.get(position as usize).copied().unwrap_or(0x7f);
        Error::NotANumber {
            file: self.file.into(),
            tensor: self.name(),
            found: format!("the NaN code {code:#04x} at [{}, {}]", position / columns, position % columns),
        }
    }
}

fn same_shape(expected: &[u32], found: &[u64]) -> bool {
    expected.iter().map(|size| u64::from(*size)).eq(found.iter().copied())
}

/// `F32, BF16 or F16`
fn one_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    match names.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => names.concat(),
    }
}

fn read_config(source: &Source) -> Result<ModelConfig> {
    const CONFIG: &str = "config.json";
    const GENERATION: &str = "generation_config.json";
    let Some(config) = source.read(CONFIG, CONFIG_LIMIT)? else {
        return Err(Error::MissingFile {
            file: source.path(CONFIG),
            expected: "the model's configuration".into(),
            found: no_such_file(&source.names()?),
        });
    };
    let generation = source.read(GENERATION, CONFIG_LIMIT)?;
    let (config_path, generation_path) = (source.path(CONFIG), source.path(GENERATION));
    let generation = generation.as_deref().map(|text| (generation_path.as_path(), text));
    ModelConfig::parse((&config_path, &config), generation)
}

/// What says which tensors are in which shard.
enum Listing {
    /// The index: tensor names, sorted, each with the number of its shard.
    Index { file: PathBuf, tensors: Vec<(String, u32)>, total_size: Option<u64> },
    /// Only the shards themselves.
    None,
}

/// The names of the shards, sorted.
fn find_shards(source: &Source) -> Result<(Listing, Vec<String>)> {
    if let Some(text) = source.read(INDEX_FILE, INDEX_LIMIT)? {
        return parse_index(source.path(INDEX_FILE), &text);
    }
    let files = source.names()?;
    if files.iter().any(|name| name == SINGLE_FILE) {
        return Ok((Listing::None, vec![SINGLE_FILE.into()]));
    }
    let shards: Vec<_> = files
        .into_iter()
        .filter(|name| name.starts_with("model-") && name.ends_with(".safetensors"))
        .collect();
    if shards.is_empty() {
        let expected = format!("weights in {INDEX_FILE}, {SINGLE_FILE} or model-*.safetensors");
        let others: Vec<String> = source.names()?;
        return Err(Error::MissingFile {
            file: source.path(SINGLE_FILE),
            expected,
            found: no_such_file(&others),
        });
    }
    check_numbering(source, &shards)?;
    Ok((Listing::None, shards))
}

/// What is found where a file is missing: other formats, if there are any.
fn no_such_file(names: &[String]) -> String {
    match other_formats(names) {
        Some(others) => format!("no such file, but {others}"),
        None => "no such file".into(),
    }
}

/// Without an index only the names tell whether shards are missing: `model-00002-of-00163.safetensors`.
fn check_numbering(source: &Source, shards: &[String]) -> Result<()> {
    let split = |name: &str| -> Option<(String, String)> {
        let middle = name.strip_prefix("model-")?.strip_suffix(".safetensors")?;
        let (number, total) = middle.split_once("-of-")?;
        Some((number.to_owned(), total.to_owned()))
    };
    let Some((first, total)) = split(&shards[0]) else { return Ok(()) };
    let Ok(count) = total.parse::<u32>() else { return Ok(()) };
    let width = first.len();
    for number in 1..=count {
        let name = format!("model-{number:0width$}-of-{total}.safetensors");
        if shards.binary_search(&name).is_err() {
            let expected = format!("shard {number} of {count}");
            return Err(Error::MissingShard { file: source.path(&name), expected });
        }
    }
    Ok(())
}

/// `number` is its place among the sorted names.
fn open_shard(source: &Source, number: u32, name: &str, listing: &Listing) -> Result<(Shard, Vec<Entry>)> {
    let path = source.path(name);
    let Some((bytes, stamp)) = source.map(name)? else {
        let expected = match listing {
            Listing::Index { tensors, .. } => {
                let here = || tensors.iter().filter(|(_, shard)| *shard == number);
                let first = here().next().map_or("none", |(tensor, _)| tensor);
                format!("{} tensors, the first is `{}`", here().count(), printable(first))
            }
            Listing::None => "a shard".into(),
        };
        return Err(Error::MissingShard { file: path, expected });
    };
    let entries = parse_header(&path, &bytes)?;
    Ok((Shard { path, bytes, stamp, tensors: entries.len() }, entries))
}

fn parse_index(file: PathBuf, text: &[u8]) -> Result<(Listing, Vec<String>)> {
    #[derive(serde::Deserialize)]
    struct RawIndex {
        #[serde(default)]
        metadata: Option<Metadata>,
        weight_map: Pairs,
    }
    #[derive(serde::Deserialize)]
    struct Metadata {
        #[serde(default)]
        total_size: Option<serde_json::Number>,
    }
    let damaged = |found: String| Error::Json {
        file: file.clone(),
        expected: "an index with a `weight_map`".into(),
        found,
    };
    let RawIndex { metadata, weight_map: Pairs(pairs) } =
        serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
    if pairs.is_empty() {
        return Err(damaged("an empty `weight_map`".into()));
    }

    let mut shards: Vec<&str> = pairs.iter().map(|(_, shard)| shard.as_str()).collect();
    shards.sort_unstable();
    shards.dedup();
    // Shards are files beside the index: a name that leads elsewhere is not followed.
    let is_plain = |name: &str| {
        name.len() <= 255
            && !name.starts_with('.')
            && !name.contains(['/', '\\', '\0', ':'])
            && !name.is_empty()
    };
    if let Some(name) = shards.iter().find(|name| !is_plain(name)) {
        return Err(damaged(format!("the shard name `{}`, which is not a plain file name", printable(name))));
    }
    let shards: Vec<String> = shards.into_iter().map(String::from).collect();
    let number = |shard: &String| shards.binary_search(shard).expect("it is one of them") as u32;
    let mut tensors: Vec<_> = pairs.iter().map(|(tensor, shard)| (tensor.clone(), number(shard))).collect();
    drop(pairs);
    tensors.sort_unstable();
    if let Some([(tensor, _), _]) = tensors.array_windows::<2>().find(|[a, b]| a.0 == b.0) {
        let tensor = printable(tensor);
        return Err(Error::Duplicate { file, tensor, found: "twice in the index".into() });
    }
    let total_size = metadata.and_then(|metadata| metadata.total_size).and_then(|size| size.as_u64());
    Ok((Listing::Index { file, tensors, total_size }, shards))
}

/// A JSON object of texts, in the file's order and with repetitions.
struct Pairs(Vec<(String, String)>);

impl<'de> serde::Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensor names and file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}
