impl :: bincode :: Encode for EntryV1
{
    fn encode < __E : :: bincode :: enc :: Encoder >
    (& self, encoder : & mut __E) ->core :: result :: Result < (), :: bincode
    :: error :: EncodeError >
    {
        :: bincode :: Encode :: encode(&self.id, encoder) ?; :: bincode ::
        Encode :: encode(&self.epoch, encoder) ?; :: bincode :: Encode ::
        encode(&self.seq, encoder) ?; :: bincode :: Encode ::
        encode(&self.time, encoder) ?; :: bincode :: Encode ::
        encode(&self.undo_end, encoder) ?; :: bincode :: Encode ::
        encode(&self.kind, encoder) ?; :: bincode :: Encode ::
        encode(&self.name, encoder) ?; core :: result :: Result :: Ok(())
    }
}