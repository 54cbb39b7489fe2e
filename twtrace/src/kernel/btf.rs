//! Where the kernel keeps a structure's members, from its BTF.
//!
//! A reader of our own, for a reason: the general ones index all of vmlinux (a quarter of a second
//! on a fast host), and this start-up cost is twtrace's largest. This one walks the types once,
//! remembers where each begins, and resolves some forty members.
//!
//! The format is Documentation/bpf/btf.rst of the kernel (read at 6.18).

use std::{borrow::Cow, collections::BTreeMap, hash::Hasher as _, path::Path};

use twtrace_common::Field;

/// Why a BTF blob could not answer.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not BTF, or not of this machine's byte order.
    #[error("not BTF: {0}")]
    Malformed(&'static str),
    /// The kernel has no such structure.
    #[error("the kernel has no struct {0}")]
    NoStruct(String),
    /// The structure has no such member.
    #[error("struct {owner} has no member {path} in this kernel")]
    NoMember {
        /// The structure.
        owner: String,
        /// The member path asked for.
        path: String,
    },
    /// The member is there but not of a kind that can be read.
    #[error("struct {owner} member {path}: {problem}")]
    Unusable {
        /// The structure.
        owner: String,
        /// The member path asked for.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// The first two bytes, and the version that goes with them.
const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
/// Bytes of the header.
const HEADER: u32 = 24;
/// Bytes of what all types begin with.
const TYPE_BYTES: usize = 12;

/// BTF_KIND_*, include/uapi/linux/btf.h.
mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FWD: u32 = 7;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// A kernel's type information, ready to be asked.
#[derive(Debug)]
pub struct BtfIndex<'a> {
    bytes: Cow<'a, [u8]>,
    strings: std::ops::Range<usize>,
    /// Where each type begins, by its id; id 0 is void and has no place.
    types: Vec<u32>,
    /// Hash of the name and id of each structure, union, typedef and function that has a name, in
    /// order: some fifty of them are looked up among a hundred and fifty thousand types.
    names: Vec<(u32, u32)>,
}

/// One type's common part.
#[derive(Clone, Copy, Debug)]
struct Type {
    at: usize,
    name: u32,
    kind: u32,
    vlen: usize,
    kind_flag: bool,
    /// Size in bytes, or the id of the type referred to, by kind.
    size_or_type: u32,
}

/// A member found, relative to the structure the search began in.
#[derive(Clone, Copy, Debug)]
struct Member {
    bit_offset: u32,
    /// Width of a bit-field, 0 for an ordinary member.
    bits: u32,
    type_id: u32,
}

impl Member {
    /// The same, from the beginning of what has its structure at an offset.
    fn within(self, bit_offset: u32) -> Option<Self> {
        Some(Self { bit_offset: bit_offset.checked_add(self.bit_offset)?, ..self })
    }
}

/// Most members looked at for one name, those of unnamed ones among them; `struct net` has some two
/// hundred.
const MOST_MEMBERS: u32 = 2048;
/// Most dimensions of an array.
const MOST_DIMENSIONS: usize = 16;

impl<'a> BtfIndex<'a> {
    /// Reads and indexes a file such as `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// [`BtfError::Unreadable`], or those of [`BtfIndex::new`].
    pub fn from_file(path: &Path) -> Result<BtfIndex<'static>, BtfError> {
        let bytes = std::fs::read(path)
            .map_err(|source| BtfError::Unreadable { path: path.to_owned(), source })?;
        BtfIndex::new(Cow::Owned(bytes))
    }

    /// Indexes BTF of this machine's byte order.
    ///
    /// # Errors
    /// [`BtfError::Malformed`] if it is not, or ends too early.
    pub fn new(bytes: Cow<'a, [u8]>) -> Result<Self, BtfError> {
        if bytes.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err(BtfError::Malformed("the magic number is missing"));
        }
        let word = |at: usize| -> Result<usize, BtfError> {
            let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
            word.map(u32::from_ne_bytes)
                .and_then(|word| usize::try_from(word).ok())
                .ok_or(BtfError::Malformed("the header is cut short"))
        };
        let header = word(4)?;
        let types = header + word(8)?..header + word(8)? + word(12)?;
        let strings = header + word(16)?..header + word(16)? + word(20)?;
        if types.end > bytes.len() || strings.end > bytes.len() {
            return Err(BtfError::Malformed("it is cut short"));
        }
        let mut index = Self { bytes, strings, types: vec![0], names: Vec::new() };
        let mut at = types.start;
        while at < types.end {
            let Some(found) = index.type_at(at) else {
                return Err(BtfError::Malformed("a type is cut short"));
            };
            let Ok(place) = u32::try_from(at) else {
                return Err(BtfError::Malformed("it is larger than 4 GiB"));
            };
            if found.name != 0 && Self::is_indexed(found.kind) {
                let id = u32::try_from(index.types.len()).unwrap_or(u32::MAX);
                index.names.push((hash(index.string(found.name)), id));
            }
            index.types.push(place);
            at += TYPE_BYTES + found.trailing_bytes();
        }
        index.names.sort_unstable();
        Ok(index)
    }

    /// Whether types of a kind are looked up by name.
    const fn is_indexed(kind: u32) -> bool {
        matches!(kind, kind::STRUCT | kind::UNION | kind::TYPEDEF | kind::FUNC)
    }

    /// Resolves a member path such as `rx_opt.ts_recent_stamp` in a structure, through unnamed
    /// members whatever the name of their type; of several paths with `|` between, the first that
    /// exists.
    ///
    /// # Errors
    /// [`BtfError::NoStruct`], [`BtfError::NoMember`], or [`BtfError::Unusable`] for a bit-field
    /// that spans bytes.
    pub fn field(&self, owner: &str, paths: &str) -> Result<Field, BtfError> {
        let mut found = Err(BtfError::NoStruct(owner.to_owned()));
        for path in paths.split('|') {
            found = self.one_field(owner, path);
            if !matches!(found, Err(BtfError::NoMember { .. })) {
                break;
            }
        }
        found
    }

    fn one_field(&self, owner: &str, path: &str) -> Result<Field, BtfError> {
        let (mut type_id, _) = self
            .by_name(owner, |kind| kind == kind::STRUCT || kind == kind::UNION)
            .ok_or_else(|| BtfError::NoStruct(owner.to_owned()))?;
        let mut found = Member { bit_offset: 0, bits: 0, type_id };
        for name in path.split('.') {
            let member = self.member(type_id, name, &mut { MOST_MEMBERS });
            found = member.and_then(|member| member.within(found.bit_offset)).ok_or_else(|| {
                BtfError::NoMember { owner: owner.to_owned(), path: path.to_owned() }
            })?;
            type_id = self.skip_modifiers(found.type_id);
        }
        let unusable = |problem| BtfError::Unusable {
            owner: owner.to_owned(),
            path: path.to_owned(),
            problem,
        };
        let offset = found.bit_offset / 8;
        if found.bits != 0 {
            let bit = found.bit_offset % 8;
            return match (bit, found.bits) {
                // sk_protocol before 5.6 is such a whole byte.
                (0, 8) => Ok(Field::whole(offset, 1)),
                (0, 16) => Ok(Field::whole(offset, 2)),
                (bit, bits) if bit + bits <= 8 => Ok(Field::bits(offset, bit as u8, bits as u8)),
                _ => Err(unusable("it is a bit-field that spans bytes")),
            };
        }
        let size = self.size(type_id).ok_or_else(|| unusable("its size is not known"))?;
        let size = u16::try_from(size).map_err(|_| unusable("it is larger than 64 KiB"))?;
        Ok(Field::whole(offset, size))
    }

    /// Number of arguments of a kernel function; `None` if the kernel has none of that name.
    pub fn function_args(&self, name: &str) -> Option<usize> {
        let (_, function) = self.by_name(name, |kind| kind == kind::FUNC)?;
        let prototype = self.get(function.size_or_type)?;
        (prototype.kind == kind::FUNC_PROTO).then_some(prototype.vlen)
    }

    /// BTF of no more than these functions and typedefs, as far as they exist, each with its id. A
    /// reader that keeps every type is done with it in a fraction of the time.
    pub fn only(
        &self,
        functions: impl IntoIterator<Item = impl AsRef<str>>,
        typedefs: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Vec<u8> {
        let mut strings = vec![0];
        let mut named = BTreeMap::new();
        let mut add = |name: &str, kind: u32| {
            if let Some((id, _)) = self.by_name(name, |it| it == kind) {
                named.insert(id, [strings.len() as u32, kind << 24, 0]);
                strings.extend_from_slice(name.as_bytes());
                strings.push(0);
            }
        };
        functions.into_iter().for_each(|name| add(name.as_ref(), kind::FUNC));
        typedefs.into_iter().for_each(|name| add(name.as_ref(), kind::TYPEDEF));
        let last = named.last_key_value().map_or(0, |(id, _)| *id as usize);
        let mut types = bytes_of(&[0, kind::FWD << 24, 0]).repeat(last);
        for (id, words) in named {
            let at = (id as usize - 1) * TYPE_BYTES;
            types[at..at + TYPE_BYTES].copy_from_slice(&bytes_of(&words));
        }
        blob(&types, &strings)
    }

    /// Id and type of the first type of that name and kind, which is an indexed one.
    fn by_name(&self, name: &str, is_kind: impl Fn(u32) -> bool) -> Option<(u32, Type)> {
        let wanted = hash(name.as_bytes());
        let first = self.names.partition_point(|(hash, _)| *hash < wanted);
        let alike = self.names[first..].iter().take_while(|(hash, _)| *hash == wanted);
        alike.copied().find_map(|(_, id)| {
            let found = self.get(id)?;
            (is_kind(found.kind) && self.is_named(found.name, name)).then_some((id, found))
        })
    }

    /// Looks a member up, descending into unnamed ones, at no more than so many in all: a damaged
    /// file may have a structure within itself.
    fn member(&self, type_id: u32, name: &str, most: &mut u32) -> Option<Member> {
        let owner = self.get(type_id)?;
        if owner.kind != kind::STRUCT && owner.kind != kind::UNION {
            return None;
        }
        (0..owner.vlen).find_map(|index| {
            *most = most.checked_sub(1)?;
            let at = owner.at + TYPE_BYTES + index * 12;
            let (member_name, member_type, raw) =
                (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
            let (bits, bit_offset) =
                if owner.kind_flag { (raw >> 24, raw & 0x00ff_ffff) } else { (0, raw) };
            if self.is_named(member_name, name) {
                Some(Member { bit_offset, bits, type_id: member_type })
            } else if self.is_named(member_name, "") {
                let inner = self.member(self.skip_modifiers(member_type), name, most)?;
                inner.within(bit_offset)
            } else {
                None
            }
        })
    }

    /// Follows typedefs and qualifiers to what they stand for.
    fn skip_modifiers(&self, mut type_id: u32) -> u32 {
        // Bounded, so that a loop in a damaged file ends.
        for _ in 0..64 {
            match self.get(type_id) {
                Some(found)
                    if matches!(
                        found.kind,
                        kind::TYPEDEF
                            | kind::VOLATILE
                            | kind::CONST
                            | kind::RESTRICT
                            | kind::TYPE_TAG
                    ) =>
                {
                    type_id = found.size_or_type;
                }
                _ => break,
            }
        }
        type_id
    }

    /// Size of a type in bytes, modifiers skipped.
    fn size(&self, mut type_id: u32) -> Option<u32> {
        let mut times = 1_u32;
        // Bounded, so that an array of itself in a damaged file ends.
        for _ in 0..MOST_DIMENSIONS {
            let found = self.get(type_id)?;
            match found.kind {
                kind::PTR => return times.checked_mul(8),
                kind::INT | kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 => {
                    return times.checked_mul(found.size_or_type);
                }
                kind::ARRAY => {
                    times = times.checked_mul(self.word(found.at + 20)?)?;
                    type_id = self.skip_modifiers(self.word(found.at + 12)?);
                }
                _ => return None,
            }
        }
        None
    }

    fn get(&self, type_id: u32) -> Option<Type> {
        match self.types.get(usize::try_from(type_id).ok()?) {
            Some(&at) if at != 0 => self.type_at(at as usize),
            _ => None,
        }
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        let info = self.word(at + 4)?;
        Some(Type {
            at,
            name: self.word(at)?,
            kind: (info >> 24) & 0x1f,
            vlen: (info & 0xffff) as usize,
            kind_flag: info >> 31 != 0,
            size_or_type: self.word(at + 8)?,
        })
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?;
        bytes.try_into().ok().map(u32::from_ne_bytes)
    }

    /// The string at `offset`; nothing where a damaged file points beyond them all.
    fn string(&self, offset: u32) -> &[u8] {
        let strings = &self.bytes[self.strings.clone()];
        let rest = strings.get(offset as usize..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
        &rest[..end]
    }

    /// Whether the string at `offset` is exactly `name`.
    fn is_named(&self, offset: u32, name: &str) -> bool {
        let start = self.strings.start + offset as usize;
        let end = start + name.len();
        end < self.strings.end && self.bytes[start..end] == *name.as_bytes() && self.bytes[end] == 0
    }
}

/// BTF of these types and strings.
fn blob(types: &[u8], strings: &[u8]) -> Vec<u8> {
    let (type_length, string_length) = (types.len() as u32, strings.len() as u32);
    let mut all = MAGIC.to_ne_bytes().to_vec();
    all.extend([VERSION, 0]);
    all.extend(bytes_of(&[HEADER, 0, type_length, type_length, string_length]));
    all.extend(types);
    all.extend(strings);
    all
}

/// Words in this machine's byte order.
fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A name's place in the index.
fn hash(name: &[u8]) -> u32 {
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write(name);
    hasher.finish() as u32
}

impl Type {
    /// Bytes that follow the common part.
    fn trailing_bytes(&self) -> usize {
        match self.kind {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => self.vlen * 12,
            kind::ENUM | kind::FUNC_PROTO => self.vlen * 8,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds BTF by hand: the smallest blob that has each hazard.
    #[derive(Default)]
    struct Builder {
        types: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Builder {
        fn string(&mut self, name: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if name.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend_from_slice(name.as_bytes());
            self.strings.push(0);
            at
        }

        fn put(&mut self, words: &[u32]) {
            self.types.extend(bytes_of(words));
        }

        fn int(&mut self, name: &str, size: u32) {
            let name = self.string(name);
            self.put(&[name, kind::INT << 24, size, size * 8]);
        }

        fn structure(&mut self, name: &str, bitfields: bool, members: &[(&str, u32, u32)]) {
            let name = self.string(name);
            let flag = u32::from(bitfields) << 31;
            self.put(&[name, flag | kind::STRUCT << 24 | members.len() as u32, 64]);
            for (member, type_id, offset) in members {
                let member = self.string(member);
                self.put(&[member, *type_id, *offset]);
            }
        }

        fn build(&self) -> Vec<u8> {
            blob(&self.types, &self.strings)
        }
    }

    fn sample() -> Vec<u8> {
        let mut btf = Builder::default();
        btf.int("int", 4); // 1
        btf.int("unsigned char", 1); // 2
        btf.structure("ns_tree", false, &[("depth", 1, 0), ("inum", 1, 32)]); // 3
        btf.structure("", false, &[("hidden", 1, 64)]); // 4
        // Unnamed members: one whose type has no name, one whose type has (kernel 7.x).
        btf.structure("net", false, &[("first", 1, 0), ("", 4, 64), ("", 3, 256)]); // 5
        // Bit-fields: width in the top byte of the offset word.
        btf.structure(
            "opts",
            true,
            &[("saw", 2, 1 << 24 | 128), ("ok", 2, 1 << 24 | 129), ("wide", 2, 4 << 24 | 134)],
        ); // 6
        btf.structure("sock", false, &[("opt", 6, 320)]); // 7
        btf.build()
    }

    #[test]
    fn what_is_left_of_it_has_the_ids_that_it_had() {
        let mut btf = Builder::default();
        btf.int("int", 4); // 1
        btf.structure("tcp", false, &[("first", 1, 0), ("second", 1, 32)]); // 2
        let name = btf.string("tcp");
        btf.put(&[name, kind::TYPEDEF << 24, 2]); // 3
        btf.put(&[0, kind::FUNC_PROTO << 24, 0]); // 4
        for function in ["tcp", "tcp_done", "tcp_done"] {
            let name = btf.string(function);
            btf.put(&[name, kind::FUNC << 24, 4]); // 5, 6, 7
        }
        let bytes = btf.build();
        let all = BtfIndex::new(Cow::Borrowed(&bytes)).unwrap();
        let bytes = all.only(["tcp", "tcp_done", "tcp_abort"], ["tcp"]);
        let few = BtfIndex::new(Cow::Borrowed(&bytes)).unwrap();
        let of = |btf: &BtfIndex<'_>, name, kind| Some(btf.by_name(name, |it| it == kind)?.0);
        for (name, kind, id) in [
            ("tcp", kind::TYPEDEF, Some(3)),
            ("tcp", kind::FUNC, Some(5)),
            ("tcp_done", kind::FUNC, Some(6)),
            ("tcp_abort", kind::FUNC, None),
        ] {
            assert_eq!(of(&all, name, kind), id, "{name}");
            assert_eq!(of(&few, name, kind), id, "{name} among few");
        }
        assert_eq!(of(&few, "tcp", kind::STRUCT), None);
        assert!(aya::Btf::parse(&bytes, aya::Endianness::default()).is_ok());
    }

    #[test]
    fn unnamed_members_are_searched_whatever_their_type_is_called() {
        let bytes = sample();
        let btf = BtfIndex::new(Cow::Borrowed(&bytes)).unwrap();
        let at = |path| btf.field("net", path).unwrap().offset;
        assert_eq!((at("first"), at("hidden"), at("depth"), at("inum")), (0, 16, 32, 36));
    }

    #[test]
    fn bit_fields_give_their_byte_and_bit() {
        let bytes = sample();
        let btf = BtfIndex::new(Cow::Borrowed(&bytes)).unwrap();
        let ok = btf.field("sock", "opt.ok").unwrap();
        assert_eq!(ok, Field::bits(40 + 16, 1, 1));
        let spans = btf.field("sock", "opt.wide").unwrap_err().to_string();
        assert_eq!(spans, "struct sock member opt.wide: it is a bit-field that spans bytes");
    }

    #[test]
    fn what_is_missing_is_named() {
        let bytes = sample();
        let btf = BtfIndex::new(Cow::Borrowed(&bytes)).unwrap();
        let error = |owner, path| btf.field(owner, path).unwrap_err().to_string();
        assert_eq!(error("nett", "first"), "the kernel has no struct nett");
        assert_eq!(error("net", "second"), "struct net has no member second in this kernel");
        assert_eq!(btf.function_args("tcp_time_wait"), None);
    }

    #[test]
    fn a_structure_within_itself_and_an_array_of_itself_are_no_end_of_it() {
        let mut btf = Builder::default();
        // Both halves of it are itself, so that there are more ways than could ever be gone.
        btf.structure("sock", false, &[("", 1, 0), ("", 1, 0), ("list", 2, 0)]); // 1
        btf.put(&[0, kind::ARRAY << 24, 0, 2, 1, 2]); // 2
        btf.structure("far", false, &[("", 4, u32::MAX)]); // 3
        btf.structure("", false, &[("away", 2, 8)]); // 4
        let bytes = btf.build();
        let btf = BtfIndex::new(Cow::Borrowed(&bytes)).unwrap();
        let error = |owner, path| btf.field(owner, path).unwrap_err().to_string();
        assert_eq!(error("sock", "other"), "struct sock has no member other in this kernel");
        assert_eq!(error("far", "away"), "struct far has no member away in this kernel");
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_or_read_but_never_panics() {
        let bytes = sample();
        for length in 0..bytes.len() {
            if let Ok(btf) = BtfIndex::new(Cow::Borrowed(&bytes[..length])) {
                let _ = btf.field("sock", "opt.ok");
            }
        }
        let garbage = BtfIndex::new(Cow::Borrowed(b"\x7fELF")).unwrap_err().to_string();
        assert_eq!(garbage, "not BTF: the magic number is missing");
    }
}
