//! Receives YAML; hands on the value that it describes. Refuses what `serde_saphyr` refuses, in its words.
//!
//! serde makes a copy of each type's code for the reader, and of the reader's code for each type: for the types of the
//! configuration a seventh of the program. Here both meet at trait objects, so each is there once. Nothing else differs:
//! a type's requests reach the reader as they are made, and the reader's errors come back as they are, with their place.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Visitor},
};

use failed::Failed;
use reader::Reader;
use value::{Seeded, Visited, any, chosen, list, map, optional, text};

mod failed;
mod reader;
mod value;

/// Reads one document.
pub(super) fn from_str<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, serde_saphyr::Error> {
    let mut document = Seeded::new(PhantomData::<T>);
    serde_saphyr::with_deserializer_from_str_with_options(text, options(), |reader| {
        let document: &mut dyn Seed<'de> = &mut document;
        document.deserialize(reader)
    })?;
    Ok(document.grown())
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! { strict_booleans: true, with_snippet: false }
}

/// The reader, where a value begins.
trait Source<'de> {
    fn read(&mut self, shape: Shape, taker: &mut dyn Taker<'de>) -> Result<(), Failed>;
}

/// What takes a value of any shape, once: a visitor.
trait Taker<'de> {
    fn expects(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    fn take(&mut self, found: Found<'_, 'de>) -> Result<(), Failed>;
}

/// What a value grows from, once.
trait Seed<'de> {
    fn grow(&mut self, source: &mut dyn Source<'de>) -> Result<(), Failed>;
}

/// The reader, inside a list. At its end no seed grows.
trait Items<'de> {
    fn next(&mut self, seed: &mut dyn Seed<'de>) -> Result<(), Failed>;
}

/// The reader, inside a map. At its end no key grows.
trait Entries<'de> {
    fn key(&mut self, seed: &mut dyn Seed<'de>) -> Result<(), Failed>;

    fn value(&mut self, seed: &mut dyn Seed<'de>) -> Result<(), Failed>;
}

/// The reader, at a variant of an enum: first its name, then what it holds.
trait Choice<'de> {
    fn name(&mut self, seed: &mut dyn Seed<'de>) -> Result<(), Failed>;

    fn content(&mut self, content: Content<'_, 'de>) -> Result<(), Failed>;
}

/// What the reader found. Bytes are not among it: no type of the configuration asks for any.
enum Found<'a, 'de> {
    Bool(bool),
    Signed(i64),
    SignedWide(i128),
    Unsigned(u64),
    UnsignedWide(u128),
    Float(f64),
    Text(&'a str),
    Unit,
    None,
    Some(&'a mut dyn Source<'de>),
    Newtype(&'a mut dyn Source<'de>),
    List(&'a mut dyn Items<'de>),
    Map(&'a mut dyn Entries<'de>),
    Enum(&'a mut dyn Choice<'de>),
}

/// What a variant of an enum holds.
enum Content<'a, 'de> {
    Unit,
    Newtype(&'a mut dyn Seed<'de>),
    Tuple(usize, &'a mut dyn Taker<'de>),
    Struct(Names, &'a mut dyn Taker<'de>),
}

type Names = &'static [&'static str];

/// What a type asks the reader for, both directions from one list, and what the reader may find then.
macro_rules! shapes {
    ($($shape:ident $(($($name:ident: $kind:ty),+))? => $request:ident by $visit:ident;)+) => {
        enum Shape {
            $($shape $(($($kind),+))?,)+
        }

        impl<'de, D: Deserializer<'de>> Source<'de> for Reader<D, D::Error> {
            fn read(&mut self, shape: Shape, taker: &mut dyn Taker<'de>) -> Result<(), Failed> {
                let reader = self.take();
                let result = match shape {
                    $(Shape::$shape $(($($name),+))? => reader.$request($($($name,)+)? taker),)+
                };
                self.keep(result)
            }
        }

        impl<'de> Deserializer<'de> for &mut (dyn Source<'de> + '_) {
            type Error = Failed;

            $(#[inline(never)] // Once for each type, not for each of its fields.
            fn $request<V: Visitor<'de>>(self, $($($name: $kind,)+)? visitor: V) -> Result<V::Value, Failed> {
                let mut visited = Visited::new(visitor, $visit);
                self.read(Shape::$shape $(($($name),+))?, &mut visited)?;
                Ok(visited.taken())
            })+
        }
    };
}

shapes! {
    Any => deserialize_any by any;
    Bool => deserialize_bool by any;
    I8 => deserialize_i8 by any;
    I16 => deserialize_i16 by any;
    I32 => deserialize_i32 by any;
    I64 => deserialize_i64 by any;
    I128 => deserialize_i128 by any;
    U8 => deserialize_u8 by any;
    U16 => deserialize_u16 by any;
    U32 => deserialize_u32 by any;
    U64 => deserialize_u64 by any;
    U128 => deserialize_u128 by any;
    F32 => deserialize_f32 by any;
    F64 => deserialize_f64 by any;
    Char => deserialize_char by any;
    Str => deserialize_str by any;
    String => deserialize_string by any;
    Bytes => deserialize_bytes by any;
    ByteBuf => deserialize_byte_buf by any;
    Option => deserialize_option by optional;
    Unit => deserialize_unit by any;
    UnitStruct(name: &'static str) => deserialize_unit_struct by any;
    NewtypeStruct(name: &'static str) => deserialize_newtype_struct by any;
    Seq => deserialize_seq by list;
    Tuple(len: usize) => deserialize_tuple by any;
    TupleStruct(name: &'static str, len: usize) => deserialize_tuple_struct by any;
    Map => deserialize_map by map;
    Struct(name: &'static str, fields: Names) => deserialize_struct by map;
    Enum(name: &'static str, variants: Names) => deserialize_enum by chosen;
    Identifier => deserialize_identifier by text;
    IgnoredAny => deserialize_ignored_any by any;
}

#[cfg(test)]
mod tests;
