//! The reader's side: receives what a type asks for and hands on what is written there. Its errors stay whole.

use std::fmt;

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor},
};

use super::{Choice, Content, Entries, Failed, Found, Items, Seed, Taker};

/// A part of the reader, until it is used up, and the error that it ended with.
pub(super) struct Reader<R, E> {
    reader: Option<R>,
    error: Option<E>,
}

impl<R, E: de::Error> Reader<R, E> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader: Some(reader), error: None }
    }

    pub(super) fn take(&mut self) -> R {
        self.reader.take().expect("serde uses it by value, so once")
    }

    fn at(&mut self) -> &mut R {
        self.reader.as_mut().expect("a list or a map is never taken out")
    }

    /// An error of the reader's stays here, with all that it knows, while the visitor is left.
    pub(super) fn keep<T>(&mut self, result: Result<T, E>) -> Result<T, Failed> {
        result.map_err(|error| {
            self.error = Some(error);
            Failed::kept()
        })
    }

    /// The kept error, or what the visitor objects to, in words of the reader's.
    fn error(&mut self, failed: Failed) -> E {
        match self.error.take() {
            Some(error) if failed.is_kept() => error,
            _ => failed.into_error(),
        }
    }
}

impl<'de, A: SeqAccess<'de>> Items<'de> for Reader<A, A::Error> {
    fn next(&mut self, seed: &mut dyn Seed<'de>) -> Result<(), Failed> {
        let result = self.at().next_element_seed(seed);
        self.keep(result).map(drop)
    }
}

impl<'de, A: MapAccess<'de>> Entries<'de> for Reader<A, A::Error> {
    fn key(&mut self, seed: &mut dyn Seed<'de>) -> Result<(), Failed> {
        let result = self.at().next_key_seed(seed);
        self.keep(result).map(drop)
    }

    fn value(&mut self, seed: &mut dyn Seed<'de>) -> Result<(), Failed> {
        let result = self.at().next_value_seed(seed);
        self.keep(result)
    }
}

struct EnumReader<'de, A: EnumAccess<'de>> {
    access: Reader<A, A::Error>,
    variant: Option<A::Variant>,
}

impl<'de, A: EnumAccess<'de>> Choice<'de> for EnumReader<'de, A> {
    fn name(&mut self, seed: &mut dyn Seed<'de>) -> Result<(), Failed> {
        let result = self.access.take().variant_seed(seed);
        let ((), variant) = self.access.keep(result)?;
        self.variant = Some(variant);
        Ok(())
    }

    fn content(&mut self, content: Content<'_, 'de>) -> Result<(), Failed> {
        let variant = self.variant.take().expect("serde gives out a variant with its name");
        let result = match content {
            Content::Unit => variant.unit_variant(),
            Content::Newtype(seed) => variant.newtype_variant_seed(seed),
            Content::Tuple(len, taker) => variant.tuple_variant(len, taker),
            Content::Struct(fields, taker) => variant.struct_variant(fields, taker),
        };
        self.access.keep(result)
    }
}

/// The only seed that the reader's code is compiled for.
impl<'de> DeserializeSeed<'de> for &mut (dyn Seed<'de> + '_) {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let mut source = Reader::new(deserializer);
        self.grow(&mut source).map_err(|failed| source.error(failed))
    }
}

/// The only visitor that the reader's code is compiled for.
impl<'de> Visitor<'de> for &mut (dyn Taker<'de> + '_) {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expects(f)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.take(Found::Bool(value)).map_err(Failed::into_error)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.take(Found::Signed(value)).map_err(Failed::into_error)
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<(), E> {
        self.take(Found::SignedWide(value)).map_err(Failed::into_error)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.take(Found::Unsigned(value)).map_err(Failed::into_error)
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<(), E> {
        self.take(Found::UnsignedWide(value)).map_err(Failed::into_error)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.take(Found::Float(value)).map_err(Failed::into_error)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.take(Found::Text(value)).map_err(Failed::into_error)
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.take(Found::Unit).map_err(Failed::into_error)
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        self.take(Found::None).map_err(Failed::into_error)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let mut source = Reader::new(deserializer);
        self.take(Found::Some(&mut source)).map_err(|failed| source.error(failed))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let mut source = Reader::new(deserializer);
        self.take(Found::Newtype(&mut source)).map_err(|failed| source.error(failed))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<(), A::Error> {
        let mut items = Reader::new(access);
        self.take(Found::List(&mut items)).map_err(|failed| items.error(failed))
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<(), A::Error> {
        let mut entries = Reader::new(access);
        self.take(Found::Map(&mut entries)).map_err(|failed| entries.error(failed))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<(), A::Error> {
        let mut choice = EnumReader { access: Reader::new(access), variant: None };
        self.take(Found::Enum(&mut choice)).map_err(|failed| choice.access.error(failed))
    }
}
