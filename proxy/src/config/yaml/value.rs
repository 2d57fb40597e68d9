//! The types' side: receives what the reader found and hands on a value. Refuses what was not asked for.

use std::fmt;

use serde::de::{
    self, DeserializeSeed, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};

use super::{Choice, Content, Entries, Failed, Found, Items, Names, Seed, Source, Taker};

/// A visitor until it is used, how it is, and then what it made.
pub(super) struct Visited<V, F, T> {
    visitor: Option<V>,
    visit: F,
    value: Option<T>,
}

impl<'de, V: Visitor<'de>, F: Fn(V, Found<'_, 'de>) -> Result<V::Value, Failed>> Visited<V, F, V::Value> {
    pub(super) fn new(visitor: V, visit: F) -> Self {
        Self { visitor: Some(visitor), visit, value: None }
    }

    pub(super) fn taken(self) -> V::Value {
        self.value.expect("a reader without an error has called the visitor")
    }
}

impl<'de, V, F> Taker<'de> for Visited<V, F, V::Value>
where
    V: Visitor<'de>,
    F: Fn(V, Found<'_, 'de>) -> Result<V::Value, Failed>,
{
    fn expects(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.as_ref().map_or(Ok(()), |visitor| visitor.expecting(f))
    }

    fn take(&mut self, found: Found<'_, 'de>) -> Result<(), Failed> {
        let visitor = self.visitor.take().expect("serde uses it by value, so once");
        self.value = Some((self.visit)(visitor, found)?);
        Ok(())
    }
}

pub(super) fn any<'de, V: Visitor<'de>>(visitor: V, found: Found<'_, 'de>) -> Result<V::Value, Failed> {
    match found {
        Found::Bool(value) => visitor.visit_bool(value),
        Found::Signed(value) => visitor.visit_i64(value),
        Found::SignedWide(value) => visitor.visit_i128(value),
        Found::Unsigned(value) => visitor.visit_u64(value),
        Found::UnsignedWide(value) => visitor.visit_u128(value),
        Found::Float(value) => visitor.visit_f64(value),
        Found::Text(value) => visitor.visit_str(value),
        Found::Unit => visitor.visit_unit(),
        Found::None => visitor.visit_none(),
        Found::Some(source) => visitor.visit_some(source),
        Found::Newtype(source) => visitor.visit_newtype_struct(source),
        Found::List(items) => visitor.visit_seq(items),
        Found::Map(entries) => visitor.visit_map(entries),
        Found::Enum(choice) => visitor.visit_enum(choice),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as the others take it")]
pub(super) fn text<'de, V: Visitor<'de>>(visitor: V, found: Found<'_, 'de>) -> Result<V::Value, Failed> {
    let Found::Text(value) = found else { return Err(unasked(&visitor)) };
    visitor.visit_str(value)
}

pub(super) fn optional<'de, V: Visitor<'de>>(visitor: V, found: Found<'_, 'de>) -> Result<V::Value, Failed> {
    match found {
        Found::None => visitor.visit_none(),
        Found::Some(source) => visitor.visit_some(source),
        _ => Err(unasked(&visitor)),
    }
}

pub(super) fn list<'de, V: Visitor<'de>>(visitor: V, found: Found<'_, 'de>) -> Result<V::Value, Failed> {
    let Found::List(items) = found else { return Err(unasked(&visitor)) };
    visitor.visit_seq(items)
}

pub(super) fn map<'de, V: Visitor<'de>>(visitor: V, found: Found<'_, 'de>) -> Result<V::Value, Failed> {
    let Found::Map(entries) = found else { return Err(unasked(&visitor)) };
    visitor.visit_map(entries)
}

pub(super) fn chosen<'de, V: Visitor<'de>>(visitor: V, found: Found<'_, 'de>) -> Result<V::Value, Failed> {
    let Found::Enum(choice) = found else { return Err(unasked(&visitor)) };
    visitor.visit_enum(choice)
}

/// The reader refuses by itself what is not of the shape that it was asked for.
#[cold]
fn unasked(expected: &dyn Expected) -> Failed {
    de::Error::invalid_type(Unexpected::Other("a value of another shape"), expected)
}

/// A seed until it is used, and then what grew from it.
pub(super) struct Seeded<S, T> {
    seed: Option<S>,
    value: Option<T>,
}

impl<'de, S: DeserializeSeed<'de>> Seeded<S, S::Value> {
    pub(super) fn new(seed: S) -> Self {
        Self { seed: Some(seed), value: None }
    }

    pub(super) fn grown(self) -> S::Value {
        self.value.expect("a reader without an error has used the seed")
    }
}

impl<'de, S: DeserializeSeed<'de>> Seed<'de> for Seeded<S, S::Value> {
    fn grow(&mut self, source: &mut dyn Source<'de>) -> Result<(), Failed> {
        let seed = self.seed.take().expect("serde uses it by value, so once");
        self.value = Some(seed.deserialize(source)?);
        Ok(())
    }
}

impl<'de> SeqAccess<'de> for &mut (dyn Items<'de> + '_) {
    type Error = Failed;

    #[inline(never)]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failed> {
        let mut seeded = Seeded::new(seed);
        self.next(&mut seeded)?;
        Ok(seeded.value)
    }
}

impl<'de> MapAccess<'de> for &mut (dyn Entries<'de> + '_) {
    type Error = Failed;

    #[inline(never)]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failed> {
        let mut seeded = Seeded::new(seed);
        self.key(&mut seeded)?;
        Ok(seeded.value)
    }

    #[inline(never)]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failed> {
        let mut seeded = Seeded::new(seed);
        self.value(&mut seeded)?;
        Ok(seeded.grown())
    }
}

impl<'de> EnumAccess<'de> for &mut (dyn Choice<'de> + '_) {
    type Error = Failed;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Failed> {
        let mut seeded = Seeded::new(seed);
        self.name(&mut seeded)?;
        Ok((seeded.grown(), self))
    }
}

impl<'de> VariantAccess<'de> for &mut (dyn Choice<'de> + '_) {
    type Error = Failed;

    fn unit_variant(self) -> Result<(), Failed> {
        self.content(Content::Unit)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Failed> {
        let mut seeded = Seeded::new(seed);
        self.content(Content::Newtype(&mut seeded))?;
        Ok(seeded.grown())
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Failed> {
        let mut visited = Visited::new(visitor, list);
        self.content(Content::Tuple(len, &mut visited))?;
        Ok(visited.taken())
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: Names, visitor: V) -> Result<V::Value, Failed> {
        let mut visited = Visited::new(visitor, map);
        self.content(Content::Struct(fields, &mut visited))?;
        Ok(visited.taken())
    }
}
