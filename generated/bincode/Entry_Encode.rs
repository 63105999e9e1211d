impl :: bincode :: Encode for Entry
{
    fn encode < __E : :: bincode :: enc :: Encoder >
    (& self, encoder : & mut __E) ->core :: result :: Result < (), :: bincode
    :: error :: EncodeError >
    {
        :: bincode :: Encode :: encode(&self.before, encoder) ?; :: bincode ::
        Encode :: encode(&self.clock, encoder) ?; core :: result :: Result ::
        Ok(())
    }
}